CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_key PRIMARY KEY (version_num)
);
CREATE TABLE stations (
	id BIGSERIAL NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	folder VARCHAR(32), 
	started_at BIGINT, 
	clock_at BIGINT, 
	settings TEXT, 
	CONSTRAINT stations_key PRIMARY KEY (id), 
	CONSTRAINT stations_name_once UNIQUE (name), 
	CONSTRAINT stations_folder_once UNIQUE (folder)
);
CREATE TABLE tokens (
	id BIGSERIAL NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	hash VARCHAR(64) NOT NULL, 
	role VARCHAR(16) NOT NULL, 
	created_at BIGINT NOT NULL, 
	used_at BIGINT, 
	expires_at BIGINT, 
	CONSTRAINT tokens_key PRIMARY KEY (id), 
	CONSTRAINT tokens_name_once UNIQUE (name), 
	CONSTRAINT tokens_hash_once UNIQUE (hash)
);
CREATE TABLE users (
	id BIGSERIAL NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	password TEXT NOT NULL, 
	role VARCHAR(16) NOT NULL, 
	created_at BIGINT NOT NULL, 
	subject TEXT, 
	CONSTRAINT users_key PRIMARY KEY (id), 
	CONSTRAINT users_name_once UNIQUE (name)
);
CREATE UNIQUE INDEX users_subject ON users (subject);
CREATE TABLE products (
	id BIGSERIAL NOT NULL, 
	station_id BIGINT NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	created_at BIGINT NOT NULL, 
	active_version_id BIGINT, 
	entry_id BIGINT, 
	CONSTRAINT products_key PRIMARY KEY (id), 
	CONSTRAINT products_station_id_once UNIQUE (station_id, name), 
	CONSTRAINT products_station_id_of FOREIGN KEY(station_id) REFERENCES stations (id)
);
CREATE TABLE sessions (
	hash VARCHAR(64) NOT NULL, 
	user_id BIGINT NOT NULL, 
	created_at BIGINT NOT NULL, 
	expires_at BIGINT NOT NULL, 
	CONSTRAINT sessions_key PRIMARY KEY (hash), 
	CONSTRAINT sessions_user_id_of FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE
);
CREATE TABLE challenge_parts (
	id BIGSERIAL NOT NULL, 
	product_id BIGINT NOT NULL, 
	name TEXT COLLATE "C" NOT NULL, 
	expected VARCHAR(12) NOT NULL, 
	note TEXT NOT NULL, 
	removed_at BIGINT, 
	CONSTRAINT challenge_parts_key PRIMARY KEY (id), 
	CONSTRAINT challenge_parts_product_id_of FOREIGN KEY(product_id) REFERENCES products (id)
);
CREATE TABLE deliveries (
	product_id BIGINT NOT NULL, 
	sink VARCHAR(80) NOT NULL, 
	inspection_id BIGINT NOT NULL, 
	verdict_id BIGINT NOT NULL, 
	part_number BIGINT NOT NULL, 
	delivered BIGINT NOT NULL, 
	refused BIGINT NOT NULL, 
	CONSTRAINT deliveries_key PRIMARY KEY (product_id, sink), 
	CONSTRAINT deliveries_product_id_of FOREIGN KEY(product_id) REFERENCES products (id)
);
CREATE TABLE events (
	id BIGSERIAL NOT NULL, 
	at BIGINT NOT NULL, 
	kind VARCHAR(32) NOT NULL, 
	who VARCHAR(64) NOT NULL, 
	product_id BIGINT, 
	text TEXT NOT NULL, 
	address VARCHAR(64), 
	CONSTRAINT events_key PRIMARY KEY (id), 
	CONSTRAINT events_product_id_of FOREIGN KEY(product_id) REFERENCES products (id)
);
CREATE INDEX events_at ON events (at);
CREATE TABLE pictures (
	product_id BIGINT NOT NULL, 
	hash VARCHAR(64) NOT NULL, 
	suffix VARCHAR(8) NOT NULL, 
	bytes BIGINT NOT NULL, 
	width INTEGER NOT NULL, 
	height INTEGER NOT NULL, 
	created_at BIGINT NOT NULL, 
	pixels VARCHAR(64), 
	removed_at BIGINT, 
	CONSTRAINT pictures_key PRIMARY KEY (product_id, hash), 
	CONSTRAINT pictures_product_id_of FOREIGN KEY(product_id) REFERENCES products (id)
);
CREATE INDEX pictures_there ON pictures (product_id, hash, bytes) WHERE removed_at IS NULL;
CREATE TABLE removed_files (
	product_id BIGINT NOT NULL, 
	key VARCHAR(200) NOT NULL, 
	picture VARCHAR(64) NOT NULL, 
	inspection_id BIGINT NOT NULL, 
	CONSTRAINT removed_files_key PRIMARY KEY (product_id, key), 
	CONSTRAINT removed_files_product_id_of FOREIGN KEY(product_id) REFERENCES products (id)
);
CREATE TABLE versions (
	id BIGSERIAL NOT NULL, 
	product_id BIGINT NOT NULL, 
	hash VARCHAR(64) NOT NULL, 
	file TEXT NOT NULL, 
	origin TEXT NOT NULL, 
	facts TEXT NOT NULL, 
	created_at BIGINT NOT NULL, 
	CONSTRAINT versions_key PRIMARY KEY (id), 
	CONSTRAINT versions_product_id_once UNIQUE (product_id, hash), 
	CONSTRAINT versions_product_id_of FOREIGN KEY(product_id) REFERENCES products (id)
);
CREATE TABLE candidates (
	id BIGSERIAL NOT NULL, 
	product_id BIGINT NOT NULL, 
	start_version_id BIGINT NOT NULL, 
	version_id BIGINT, 
	status VARCHAR(12) NOT NULL, 
	who VARCHAR(64) NOT NULL, 
	created_at BIGINT NOT NULL, 
	changed_at BIGINT NOT NULL, 
	facts TEXT NOT NULL, 
	CONSTRAINT candidates_key PRIMARY KEY (id), 
	CONSTRAINT candidates_product_id_of FOREIGN KEY(product_id) REFERENCES products (id), 
	CONSTRAINT candidates_start_version_id_of FOREIGN KEY(start_version_id) REFERENCES versions (id), 
	CONSTRAINT candidates_version_id_of FOREIGN KEY(version_id) REFERENCES versions (id)
);
CREATE INDEX candidates_product ON candidates (product_id, id);
CREATE TABLE challenge_views (
	part_id BIGINT NOT NULL, 
	view TEXT COLLATE "C" NOT NULL, 
	pixels VARCHAR(64) NOT NULL, 
	boxes TEXT NOT NULL, 
	picture BYTEA NOT NULL, 
	CONSTRAINT challenge_views_key PRIMARY KEY (part_id, view), 
	CONSTRAINT challenge_views_part_id_of FOREIGN KEY(part_id) REFERENCES challenge_parts (id)
);
CREATE TABLE challenges (
	id BIGSERIAL NOT NULL, 
	product_id BIGINT NOT NULL, 
	version_id BIGINT NOT NULL, 
	state_hash VARCHAR(64) NOT NULL, 
	parts TEXT NOT NULL, 
	cause VARCHAR(12) NOT NULL, 
	who VARCHAR(64) NOT NULL, 
	begun_at BIGINT NOT NULL, 
	reason TEXT, 
	CONSTRAINT challenges_key PRIMARY KEY (id), 
	CONSTRAINT challenges_product_id_of FOREIGN KEY(product_id) REFERENCES products (id), 
	CONSTRAINT challenges_version_id_of FOREIGN KEY(version_id) REFERENCES versions (id)
);
CREATE INDEX challenges_product ON challenges (product_id, id);
CREATE TABLE hours (
	product_id BIGINT NOT NULL, 
	version_id BIGINT NOT NULL, 
	hour BIGINT NOT NULL, 
	inspected INTEGER NOT NULL, 
	anomalous INTEGER NOT NULL, 
	within_tolerance INTEGER NOT NULL, 
	unanswered INTEGER NOT NULL, 
	score_sum DOUBLE PRECISION NOT NULL, 
	score_min DOUBLE PRECISION NOT NULL, 
	score_max DOUBLE PRECISION NOT NULL, 
	reviewed INTEGER NOT NULL, 
	defects INTEGER NOT NULL, 
	false_alarms INTEGER NOT NULL, 
	misses INTEGER NOT NULL, 
	CONSTRAINT hours_key PRIMARY KEY (product_id, version_id, hour), 
	CONSTRAINT hours_product_id_of FOREIGN KEY(product_id) REFERENCES products (id), 
	CONSTRAINT hours_version_id_of FOREIGN KEY(version_id) REFERENCES versions (id)
);
CREATE TABLE learnt (
	version_id BIGINT NOT NULL, 
	product_id BIGINT NOT NULL, 
	picture VARCHAR(64) NOT NULL, 
	CONSTRAINT learnt_key PRIMARY KEY (version_id, product_id, picture), 
	CONSTRAINT learnt_picture_of FOREIGN KEY(product_id, picture) REFERENCES pictures (product_id, hash), 
	CONSTRAINT learnt_version_id_of FOREIGN KEY(version_id) REFERENCES versions (id)
);
CREATE TABLE learnt_pixels (
	version_id BIGINT NOT NULL, 
	pixels VARCHAR(64) NOT NULL, 
	CONSTRAINT learnt_pixels_key PRIMARY KEY (version_id, pixels), 
	CONSTRAINT learnt_pixels_version_id_of FOREIGN KEY(version_id) REFERENCES versions (id)
);
CREATE INDEX learnt_pixels_pixels ON learnt_pixels (pixels);
CREATE TABLE parts (
	id BIGSERIAL NOT NULL, 
	product_id BIGINT NOT NULL, 
	version_id BIGINT NOT NULL, 
	part TEXT COLLATE "C" NOT NULL, 
	batch TEXT COLLATE "C", 
	decided_at BIGINT NOT NULL, 
	decision VARCHAR(16) NOT NULL, 
	score DOUBLE PRECISION, 
	p_value DOUBLE PRECISION, 
	worst TEXT COLLATE "C" NOT NULL, 
	purpose VARCHAR(12) NOT NULL, 
	CONSTRAINT parts_key PRIMARY KEY (id), 
	CONSTRAINT parts_product_id_of FOREIGN KEY(product_id) REFERENCES products (id), 
	CONSTRAINT parts_version_id_of FOREIGN KEY(version_id) REFERENCES versions (id)
);
CREATE INDEX parts_part ON parts (product_id, part);
CREATE TABLE inspections (
	id BIGSERIAL NOT NULL, 
	product_id BIGINT NOT NULL, 
	version_id BIGINT NOT NULL, 
	picture VARCHAR(64) NOT NULL, 
	at BIGINT NOT NULL, 
	name TEXT COLLATE "C" NOT NULL, 
	source VARCHAR(16) NOT NULL, 
	key VARCHAR(200), 
	score DOUBLE PRECISION NOT NULL, 
	p_value DOUBLE PRECISION NOT NULL, 
	severity DOUBLE PRECISION NOT NULL, 
	score_threshold DOUBLE PRECISION NOT NULL, 
	anomalous BOOLEAN NOT NULL, 
	tolerated BOOLEAN NOT NULL, 
	near BOOLEAN NOT NULL, 
	record TEXT NOT NULL, 
	verdict VARCHAR(8), 
	review VARCHAR(8) NOT NULL, 
	kind TEXT COLLATE "C", 
	part TEXT COLLATE "C", 
	batch TEXT COLLATE "C", 
	request_hash VARCHAR(64), 
	unanswered VARCHAR(12), 
	view TEXT COLLATE "C", 
	part_id BIGINT, 
	purpose VARCHAR(12) NOT NULL, 
	challenge_id BIGINT, 
	challenge_part_id BIGINT, 
	CONSTRAINT inspections_key PRIMARY KEY (id), 
	CONSTRAINT inspections_picture_of FOREIGN KEY(product_id, picture) REFERENCES pictures (product_id, hash), 
	CONSTRAINT inspections_product_id_once UNIQUE (product_id, key), 
	CONSTRAINT inspections_product_id_of FOREIGN KEY(product_id) REFERENCES products (id), 
	CONSTRAINT inspections_version_id_of FOREIGN KEY(version_id) REFERENCES versions (id), 
	CONSTRAINT inspections_part_id_of FOREIGN KEY(part_id) REFERENCES parts (id), 
	CONSTRAINT inspections_challenge_id_of FOREIGN KEY(challenge_id) REFERENCES challenges (id), 
	CONSTRAINT inspections_challenge_part_id_of FOREIGN KEY(challenge_part_id) REFERENCES challenge_parts (id)
);
CREATE INDEX inspections_picture ON inspections (product_id, picture);
CREATE INDEX inspections_search ON inspections (product_id, id, at, anomalous, verdict, review, score, version_id, tolerated, purpose);
CREATE INDEX inspections_part ON inspections (product_id, part, id) WHERE part IS NOT NULL;
CREATE INDEX inspections_waiting ON inspections (product_id, id) WHERE review = 'waiting';
CREATE INDEX inspections_batch ON inspections (product_id, batch, id) WHERE batch IS NOT NULL;
CREATE INDEX inspections_part_id ON inspections (part_id) WHERE part_id IS NOT NULL;
CREATE INDEX inspections_name ON inspections (product_id, name);
CREATE INDEX inspections_at ON inspections (product_id, at);
CREATE INDEX inspections_challenge ON inspections (product_id, id) WHERE purpose = 'challenge';
CREATE TABLE verdicts (
	id BIGSERIAL NOT NULL, 
	inspection_id BIGINT NOT NULL, 
	verdict VARCHAR(8) NOT NULL, 
	at BIGINT NOT NULL, 
	who VARCHAR(64) NOT NULL, 
	mask VARCHAR(64), 
	note TEXT NOT NULL, 
	kind TEXT COLLATE "C", 
	key VARCHAR(200), 
	CONSTRAINT verdicts_key PRIMARY KEY (id), 
	CONSTRAINT verdicts_inspection_id_of FOREIGN KEY(inspection_id) REFERENCES inspections (id)
);
CREATE INDEX verdicts_inspection_id ON verdicts (inspection_id);
CREATE UNIQUE INDEX verdicts_once ON verdicts (inspection_id, key);
CREATE VIEW inspection_report AS SELECT
    inspections.id AS inspection, stations.name AS station, products.name AS product, to_timestamp(inspections.at / 1000000.0) AS at,
    CASE WHEN inspections.tolerated THEN 'within tolerance'
        WHEN inspections.anomalous THEN 'anomalous' ELSE 'good' END AS decision,
    inspections.score AS score, inspections.score_threshold AS threshold, inspections.p_value AS p_value,
    inspections.severity AS severity, inspections.verdict AS verdict, inspections.part AS part,
    inspections.batch AS batch, inspections.view AS view, inspections.name AS picture,
    inspections.source AS source, versions.id AS version, versions.file AS model,
    inspections.unanswered AS unanswered
FROM inspections JOIN products ON products.id = inspections.product_id
JOIN stations ON stations.id = products.station_id JOIN versions ON versions.id = inspections.version_id
WHERE inspections.purpose = 'production';
INSERT INTO alembic_version (version_num) VALUES ('0002');
INSERT INTO stations (id, name, folder, started_at, clock_at, settings) VALUES (1, 'station', NULL, NULL, NULL, NULL);
INSERT INTO products (id, station_id, name, created_at, active_version_id, entry_id) VALUES (1, 1, 'plate', 1795932183875058, NULL, NULL);
INSERT INTO deliveries (product_id, sink, inspection_id, verdict_id, part_number, delivered, refused) VALUES (1, 'webhook:1:1', 9, 1, 2, 3, 0);
INSERT INTO events (id, at, kind, who, product_id, text, address) VALUES (1, 1795932184031318, 'verdict', 'anna', 1, 'good on inspection 4', NULL);
INSERT INTO events (id, at, kind, who, product_id, text, address) VALUES (2, 1795932184117974, 'verdict', 'anna', 1, 'defect on inspection 5', NULL);
INSERT INTO events (id, at, kind, who, product_id, text, address) VALUES (3, 1, 'x', 'anna', 1, 't', NULL);
INSERT INTO pictures (product_id, hash, suffix, bytes, width, height, created_at, pixels, removed_at) VALUES (1, '0000000000000000000000000000000000000000000000000000000000000001', '.png', 1, 4, 4, 18000000001, '0000000000000000000000000000000000000000000000000000000000000001', NULL);
INSERT INTO pictures (product_id, hash, suffix, bytes, width, height, created_at, pixels, removed_at) VALUES (1, '0000000000000000000000000000000000000000000000000000000000000010', '.png', 1, 4, 4, 18000000010, '0000000000000000000000000000000000000000000000000000000000000010', NULL);
INSERT INTO pictures (product_id, hash, suffix, bytes, width, height, created_at, pixels, removed_at) VALUES (1, '0000000000000000000000000000000000000000000000000000000000000011', '.png', 1, 4, 4, 18000000011, '0000000000000000000000000000000000000000000000000000000000000011', NULL);
INSERT INTO pictures (product_id, hash, suffix, bytes, width, height, created_at, pixels, removed_at) VALUES (1, '0000000000000000000000000000000000000000000000000000000000000020', '.png', 1, 4, 4, 18000000020, '0000000000000000000000000000000000000000000000000000000000000020', NULL);
INSERT INTO pictures (product_id, hash, suffix, bytes, width, height, created_at, pixels, removed_at) VALUES (1, '0000000000000000000000000000000000000000000000000000000000000021', '.png', 1, 4, 4, 18000000021, '0000000000000000000000000000000000000000000000000000000000000021', NULL);
INSERT INTO pictures (product_id, hash, suffix, bytes, width, height, created_at, pixels, removed_at) VALUES (1, '0000000000000000000000000000000000000000000000000000000000000030', '.png', 1, 4, 4, 18000000030, '0000000000000000000000000000000000000000000000000000000000000030', NULL);
INSERT INTO pictures (product_id, hash, suffix, bytes, width, height, created_at, pixels, removed_at) VALUES (1, '0000000000000000000000000000000000000000000000000000000000000031', '.png', 1, 4, 4, 18000000031, '0000000000000000000000000000000000000000000000000000000000000031', NULL);
INSERT INTO pictures (product_id, hash, suffix, bytes, width, height, created_at, pixels, removed_at) VALUES (1, '0000000000000000000000000000000000000000000000000000000000000040', '.png', 1, 4, 4, 18000000040, '0000000000000000000000000000000000000000000000000000000000000040', NULL);
INSERT INTO pictures (product_id, hash, suffix, bytes, width, height, created_at, pixels, removed_at) VALUES (1, '0000000000000000000000000000000000000000000000000000000000000041', '.png', 1, 4, 4, 18000000041, '0000000000000000000000000000000000000000000000000000000000000041', NULL);
INSERT INTO pictures (product_id, hash, suffix, bytes, width, height, created_at, pixels, removed_at) VALUES (1, '0000000000000000000000000000000000000000000000000000000000000050', '.png', 1, 4, 4, 18000000050, '0000000000000000000000000000000000000000000000000000000000000050', NULL);
INSERT INTO versions (id, product_id, hash, file, origin, facts, created_at) VALUES (1, 1, '0000000000000000000000000000000000000000000000000000000000000000', 'none', '', '{"score_threshold": 1.0}', 0);
INSERT INTO candidates (id, product_id, start_version_id, version_id, status, who, created_at, changed_at, facts) VALUES (1, 1, 1, NULL, 'ready', 'anna', 0, 0, '{"learnt": [4], "corrections": [{"id": 4, "verdict": "good", "verdict_id": 1}]}');
INSERT INTO hours (product_id, version_id, hour, inspected, anomalous, within_tolerance, unanswered, score_sum, score_min, score_max, reviewed, defects, false_alarms, misses) VALUES (1, 1, 5, 10, 1, 2, 0, 18.6, 0.5, 5.0, 2, 1, 0, 1);
INSERT INTO parts (id, product_id, version_id, part, batch, decided_at, decision, score, p_value, worst, purpose) VALUES (1, 1, 1, 'good part', NULL, 1795932183966982, 'good', 0.31945099115038966, 0.45, 'b', 'production');
INSERT INTO parts (id, product_id, version_id, part, batch, decided_at, decision, score, p_value, worst, purpose) VALUES (2, 1, 1, 'flagged', NULL, 1795932184010645, 'anomalous', 4.172294760600441, 0.05, 'b', 'production');
INSERT INTO parts (id, product_id, version_id, part, batch, decided_at, decision, score, p_value, worst, purpose) VALUES (3, 1, 1, 'of a folder', NULL, 1795932184142965, 'anomalous', 4.172294760600441, 0.05, 'b', 'production');
INSERT INTO parts (id, product_id, version_id, part, batch, decided_at, decision, score, p_value, worst, purpose) VALUES (4, 1, 1, 'tolerated', NULL, 1795932184177533, 'within tolerance', 4.172294760600441, 0.05, 'b', 'production');
INSERT INTO inspections (id, product_id, version_id, picture, at, name, source, key, score, p_value, severity, score_threshold, anomalous, tolerated, near, record, verdict, review, kind, part, batch, request_hash, unanswered, view, part_id, purpose, challenge_id, challenge_part_id) VALUES (1, 1, 1, '0000000000000000000000000000000000000000000000000000000000000001', 18000000001, '1.png', 'http', 'http:s', 0.5, 0.5, -1.0, 2.0, false, false, false, '{"regions": [], "findings": []}', NULL, 'none', NULL, 'single', NULL, NULL, NULL, NULL, NULL, 'production', NULL, NULL);
INSERT INTO inspections (id, product_id, version_id, picture, at, name, source, key, score, p_value, severity, score_threshold, anomalous, tolerated, near, record, verdict, review, kind, part, batch, request_hash, unanswered, view, part_id, purpose, challenge_id, challenge_part_id) VALUES (2, 1, 1, '0000000000000000000000000000000000000000000000000000000000000010', 18000000010, '10.png', 'http', 'http/0:k1', 0.5, 0.5, -1.0, 2.0, false, false, false, '{"regions": [], "findings": []}', NULL, 'none', NULL, 'good part', NULL, NULL, NULL, 'a', 1, 'production', NULL, NULL);
INSERT INTO inspections (id, product_id, version_id, picture, at, name, source, key, score, p_value, severity, score_threshold, anomalous, tolerated, near, record, verdict, review, kind, part, batch, request_hash, unanswered, view, part_id, purpose, challenge_id, challenge_part_id) VALUES (3, 1, 1, '0000000000000000000000000000000000000000000000000000000000000011', 18000000011, '11.png', 'http', 'http/1:k1', 0.6, 0.5, -1.0, 2.0, false, false, false, '{"regions": [], "findings": []}', NULL, 'none', NULL, 'good part', NULL, NULL, NULL, 'b', 1, 'production', NULL, NULL);
INSERT INTO inspections (id, product_id, version_id, picture, at, name, source, key, score, p_value, severity, score_threshold, anomalous, tolerated, near, record, verdict, review, kind, part, batch, request_hash, unanswered, view, part_id, purpose, challenge_id, challenge_part_id) VALUES (4, 1, 1, '0000000000000000000000000000000000000000000000000000000000000020', 18000000020, '20.png', 'http', NULL, 0.5, 0.5, -1.0, 2.0, false, false, false, '{"regions": [], "findings": []}', 'good', 'done', NULL, 'flagged', NULL, NULL, NULL, 'a', 2, 'production', NULL, NULL);
INSERT INTO inspections (id, product_id, version_id, picture, at, name, source, key, score, p_value, severity, score_threshold, anomalous, tolerated, near, record, verdict, review, kind, part, batch, request_hash, unanswered, view, part_id, purpose, challenge_id, challenge_part_id) VALUES (5, 1, 1, '0000000000000000000000000000000000000000000000000000000000000021', 18000000021, '21.png', 'http', NULL, 5.0, 0.5, -1.0, 2.0, false, false, false, '{"regions": [], "findings": []}', 'defect', 'done', 'dent', 'flagged', NULL, NULL, NULL, 'b', 2, 'production', NULL, NULL);
INSERT INTO inspections (id, product_id, version_id, picture, at, name, source, key, score, p_value, severity, score_threshold, anomalous, tolerated, near, record, verdict, review, kind, part, batch, request_hash, unanswered, view, part_id, purpose, challenge_id, challenge_part_id) VALUES (6, 1, 1, '0000000000000000000000000000000000000000000000000000000000000030', 18000000030, '30.png', 'folder', 'folder@1:0', 0.5, 0.5, -1.0, 2.0, false, false, false, '{"regions": [], "findings": []}', NULL, 'none', NULL, 'of a folder', NULL, NULL, NULL, 'a', 3, 'production', NULL, NULL);
INSERT INTO inspections (id, product_id, version_id, picture, at, name, source, key, score, p_value, severity, score_threshold, anomalous, tolerated, near, record, verdict, review, kind, part, batch, request_hash, unanswered, view, part_id, purpose, challenge_id, challenge_part_id) VALUES (7, 1, 1, '0000000000000000000000000000000000000000000000000000000000000031', 18000000031, '31.png', 'folder', 'folder@1:1', 5.0, 0.5, -1.0, 2.0, false, false, false, '{"regions": [], "findings": []}', NULL, 'waiting', NULL, 'of a folder', NULL, NULL, NULL, 'b', 3, 'production', NULL, NULL);
INSERT INTO inspections (id, product_id, version_id, picture, at, name, source, key, score, p_value, severity, score_threshold, anomalous, tolerated, near, record, verdict, review, kind, part, batch, request_hash, unanswered, view, part_id, purpose, challenge_id, challenge_part_id) VALUES (8, 1, 1, '0000000000000000000000000000000000000000000000000000000000000040', 18000000040, '40.png', 'http', NULL, 0.5, 0.5, -1.0, 2.0, true, true, false, '{"regions": [], "findings": []}', NULL, 'none', NULL, 'tolerated', NULL, NULL, NULL, 'a', 4, 'production', NULL, NULL);
INSERT INTO inspections (id, product_id, version_id, picture, at, name, source, key, score, p_value, severity, score_threshold, anomalous, tolerated, near, record, verdict, review, kind, part, batch, request_hash, unanswered, view, part_id, purpose, challenge_id, challenge_part_id) VALUES (9, 1, 1, '0000000000000000000000000000000000000000000000000000000000000041', 18000000041, '41.png', 'http', NULL, 5.0, 0.5, -1.0, 2.0, true, true, false, '{"regions": [], "findings": []}', NULL, 'none', NULL, 'tolerated', NULL, NULL, NULL, 'b', 4, 'production', NULL, NULL);
INSERT INTO inspections (id, product_id, version_id, picture, at, name, source, key, score, p_value, severity, score_threshold, anomalous, tolerated, near, record, verdict, review, kind, part, batch, request_hash, unanswered, view, part_id, purpose, challenge_id, challenge_part_id) VALUES (10, 1, 1, '0000000000000000000000000000000000000000000000000000000000000050', 18000000050, '50.png', 'http', NULL, 0.5, 0.5, -1.0, 2.0, true, false, false, '{"regions": [], "findings": []}', NULL, 'waiting', NULL, 'last', NULL, NULL, NULL, NULL, NULL, 'production', NULL, NULL);
INSERT INTO verdicts (id, inspection_id, verdict, at, who, mask, note, kind, key) VALUES (1, 4, 'good', 1795932184030686, 'anna', NULL, '', NULL, NULL);
INSERT INTO verdicts (id, inspection_id, verdict, at, who, mask, note, kind, key) VALUES (2, 5, 'defect', 1795932184117722, 'anna', NULL, '', 'dent', NULL);
SELECT setval(pg_get_serial_sequence('inspections', 'id'), (SELECT max(id) FROM inspections));
SELECT setval(pg_get_serial_sequence('verdicts', 'id'), (SELECT max(id) FROM verdicts));
SELECT setval(pg_get_serial_sequence('events', 'id'), (SELECT max(id) FROM events));
SELECT setval(pg_get_serial_sequence('candidates', 'id'), (SELECT max(id) FROM candidates));
SELECT setval(pg_get_serial_sequence('products', 'id'), (SELECT max(id) FROM products));
SELECT setval(pg_get_serial_sequence('versions', 'id'), (SELECT max(id) FROM versions));
SELECT setval(pg_get_serial_sequence('parts', 'id'), (SELECT max(id) FROM parts));
