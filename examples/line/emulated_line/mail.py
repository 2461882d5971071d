"""A connection from outside: a mail when a problem begins, and when it is over."""

import smtplib
from dataclasses import dataclass
from email.message import EmailMessage

from flawscope_station.plugins import Plugin


@dataclass(frozen=True)
class MailSettings:
    server: str
    to: str
    port: int = 25
    sender: str = "flawscope@localhost"


class Mail:
    def __init__(self, context, settings):
        self.context, self.settings = context, settings

    def start(self):
        self.context.listen("mail", self.tell)  # in a thread of its own

    def stop(self):
        pass  # the station ends the thread

    def tell(self, problem, is_over):
        mail = EmailMessage()
        mail["From"], mail["To"] = self.settings.sender, self.settings.to
        mail["Subject"] = f"{problem.kind}: {'over' if is_over else 'see to it'}"
        mail.set_content(problem.text)
        # where it raises, the station tells the same again
        with smtplib.SMTP(self.settings.server, self.settings.port, timeout=10) as server:
            server.send_message(mail)


MAIL = Plugin("mail", MailSettings, Mail)
