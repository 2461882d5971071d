from datasets_fixtures import *  # noqa: F403
