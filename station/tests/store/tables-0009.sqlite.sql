BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0009');
CREATE TABLE challenge_parts (
	id INTEGER NOT NULL, 
	product_id INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	expected VARCHAR(12) NOT NULL, 
	note TEXT NOT NULL, 
	removed_at BIGINT, 
	CONSTRAINT challenge_parts_key PRIMARY KEY (id), 
	CONSTRAINT challenge_parts_product_id_of FOREIGN KEY(product_id) REFERENCES products (id)
);
CREATE TABLE challenge_views (
	part_id INTEGER NOT NULL, 
	"view" TEXT NOT NULL, 
	pixels VARCHAR(64) NOT NULL, 
	boxes TEXT NOT NULL, 
	picture BLOB NOT NULL, 
	CONSTRAINT challenge_views_key PRIMARY KEY (part_id, "view"), 
	CONSTRAINT challenge_views_part_id_of FOREIGN KEY(part_id) REFERENCES challenge_parts (id)
);
CREATE TABLE challenges (
	id INTEGER NOT NULL, 
	product_id INTEGER NOT NULL, 
	version_id INTEGER NOT NULL, 
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
CREATE TABLE deliveries (
	product_id INTEGER NOT NULL, 
	sink VARCHAR(80) NOT NULL, 
	inspection_id BIGINT NOT NULL, 
	verdict_id BIGINT NOT NULL, 
	delivered BIGINT NOT NULL, 
	refused BIGINT NOT NULL, 
	CONSTRAINT deliveries_key PRIMARY KEY (product_id, sink), 
	CONSTRAINT deliveries_product_id_of FOREIGN KEY(product_id) REFERENCES products (id)
);
CREATE TABLE events (
	id INTEGER NOT NULL, 
	at BIGINT NOT NULL, 
	kind VARCHAR(32) NOT NULL, 
	who VARCHAR(64) NOT NULL, 
	product_id INTEGER, 
	text TEXT NOT NULL, 
	address VARCHAR(64), 
	CONSTRAINT events_key PRIMARY KEY (id), 
	CONSTRAINT events_product_id_of FOREIGN KEY(product_id) REFERENCES products (id)
);
INSERT INTO "events" VALUES(1,1796050563323512,'verdict','anna',1,'defect on inspection 2',NULL);
INSERT INTO "events" VALUES(2,1,'version activated','anna',1,'1',NULL);
INSERT INTO "events" VALUES(3,2,'version activated','anna',1,'2',NULL);
CREATE TABLE hours (
	product_id INTEGER NOT NULL, 
	version_id INTEGER NOT NULL, 
	hour BIGINT NOT NULL, 
	inspected INTEGER NOT NULL, 
	anomalous INTEGER NOT NULL, 
	within_tolerance INTEGER NOT NULL, 
	unanswered INTEGER NOT NULL, 
	score_sum DOUBLE NOT NULL, 
	score_min DOUBLE NOT NULL, 
	score_max DOUBLE NOT NULL, 
	reviewed INTEGER NOT NULL, 
	defects INTEGER NOT NULL, 
	false_alarms INTEGER NOT NULL, 
	misses INTEGER NOT NULL, 
	CONSTRAINT hours_key PRIMARY KEY (product_id, version_id, hour), 
	CONSTRAINT hours_version_id_of FOREIGN KEY(version_id) REFERENCES versions (id), 
	CONSTRAINT hours_product_id_of FOREIGN KEY(product_id) REFERENCES products (id)
);
INSERT INTO "hours" VALUES(1,1,0,3,1,0,0,3.0,1.0,1.0,1,1,0,0);
CREATE TABLE inspections (
	id INTEGER NOT NULL, 
	product_id INTEGER NOT NULL, 
	version_id INTEGER NOT NULL, 
	picture VARCHAR(64) NOT NULL, 
	at BIGINT NOT NULL, 
	name TEXT NOT NULL, 
	source VARCHAR(16) NOT NULL, 
	"key" VARCHAR(200), 
	score DOUBLE NOT NULL, 
	p_value DOUBLE NOT NULL, 
	severity DOUBLE NOT NULL, 
	score_threshold DOUBLE NOT NULL, 
	anomalous BOOLEAN NOT NULL, 
	tolerated BOOLEAN NOT NULL, 
	near BOOLEAN NOT NULL, 
	record TEXT NOT NULL, 
	verdict VARCHAR(8), 
	review VARCHAR(8) NOT NULL, 
	kind TEXT, 
	part TEXT, 
	batch TEXT, 
	request_hash VARCHAR(64), 
	unanswered VARCHAR(12), 
	"view" TEXT, 
	purpose VARCHAR(12) NOT NULL, 
	challenge_id INTEGER, 
	challenge_part_id INTEGER, 
	CONSTRAINT inspections_key PRIMARY KEY (id), 
	CONSTRAINT inspections_product_id_of FOREIGN KEY(product_id) REFERENCES products (id), 
	CONSTRAINT inspections_challenge_part_id_of FOREIGN KEY(challenge_part_id) REFERENCES challenge_parts (id), 
	CONSTRAINT inspections_challenge_id_of FOREIGN KEY(challenge_id) REFERENCES challenges (id), 
	CONSTRAINT inspections_version_id_of FOREIGN KEY(version_id) REFERENCES versions (id), 
	CONSTRAINT inspections_picture_of FOREIGN KEY(product_id, picture) REFERENCES pictures (product_id, hash)
);
INSERT INTO "inspections" VALUES(1,1,1,'0000000000000000000000000000000000000000000000000000000000000000',0,'part.png','http',NULL,1.0,0.5,-1.0,2.0,0,0,0,'{"regions": [], "findings": []}',NULL,'none',NULL,'part 0',NULL,NULL,NULL,NULL,'production',NULL,NULL);
INSERT INTO "inspections" VALUES(2,1,1,'0000000000000000000000000000000000000000000000000000000000000001',0,'part.png','http',NULL,1.0,0.5,-1.0,2.0,1,0,0,'{"regions": [], "findings": []}','defect','done',NULL,'part 1',NULL,NULL,NULL,NULL,'production',NULL,NULL);
INSERT INTO "inspections" VALUES(3,1,1,'0000000000000000000000000000000000000000000000000000000000000002',0,'part.png','http',NULL,1.0,0.5,-1.0,2.0,0,0,0,'{"regions": [], "findings": []}',NULL,'none',NULL,'part 2',NULL,NULL,NULL,NULL,'production',NULL,NULL);
CREATE TABLE jobs (
	id INTEGER NOT NULL, 
	kind VARCHAR(12) NOT NULL, 
	product_id INTEGER, 
	draft VARCHAR(64), 
	start_version_id INTEGER, 
	version_id INTEGER, 
	status VARCHAR(12) NOT NULL, 
	who VARCHAR(64) NOT NULL, 
	created_at BIGINT NOT NULL, 
	changed_at BIGINT NOT NULL, 
	facts TEXT NOT NULL, 
	CONSTRAINT jobs_key PRIMARY KEY (id), 
	CONSTRAINT jobs_start_version_id_of FOREIGN KEY(start_version_id) REFERENCES versions (id), 
	CONSTRAINT jobs_version_id_of FOREIGN KEY(version_id) REFERENCES versions (id), 
	CONSTRAINT jobs_product_id_of FOREIGN KEY(product_id) REFERENCES products (id)
);
INSERT INTO "jobs" VALUES(1,'corrections',1,NULL,1,2,'done','anna',0,0,'{}');
INSERT INTO "jobs" VALUES(2,'corrections',1,NULL,1,3,'done','anna',1,1,'{}');
INSERT INTO "jobs" VALUES(3,'corrections',1,NULL,1,4,'rejected','anna',2,2,'{}');
INSERT INTO "jobs" VALUES(4,'corrections',1,NULL,1,NULL,'rejected','anna',3,3,'{}');
INSERT INTO "jobs" VALUES(5,'corrections',1,NULL,1,NULL,'failed','anna',4,4,'{}');
INSERT INTO "jobs" VALUES(6,'corrections',1,NULL,1,NULL,'done','anna',5,5,'{}');
INSERT INTO "jobs" VALUES(7,'corrections',1,NULL,1,NULL,'queued','anna',6,6,'{}');
INSERT INTO "jobs" VALUES(8,'fit',NULL,'disc',NULL,NULL,'done','anna',0,0,'{"options": {}, "learns_from": []}');
INSERT INTO "jobs" VALUES(9,'fit',NULL,'ring',NULL,NULL,'stopped','anna',0,0,'{"options": {}, "learns_from": []}');
CREATE TABLE learnt (
	version_id INTEGER NOT NULL, 
	product_id INTEGER NOT NULL, 
	picture VARCHAR(64) NOT NULL, 
	CONSTRAINT learnt_key PRIMARY KEY (version_id, product_id, picture), 
	CONSTRAINT learnt_picture_of FOREIGN KEY(product_id, picture) REFERENCES pictures (product_id, hash), 
	CONSTRAINT learnt_version_id_of FOREIGN KEY(version_id) REFERENCES versions (id)
);
CREATE TABLE learnt_pixels (
	version_id INTEGER NOT NULL, 
	pixels VARCHAR(64) NOT NULL, 
	CONSTRAINT learnt_pixels_key PRIMARY KEY (version_id, pixels), 
	CONSTRAINT learnt_pixels_version_id_of FOREIGN KEY(version_id) REFERENCES versions (id)
);
CREATE TABLE pictures (
	product_id INTEGER NOT NULL, 
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
INSERT INTO "pictures" VALUES(1,'0000000000000000000000000000000000000000000000000000000000000000','.png',1,4,4,0,NULL,NULL);
INSERT INTO "pictures" VALUES(1,'0000000000000000000000000000000000000000000000000000000000000001','.png',1,4,4,0,NULL,NULL);
INSERT INTO "pictures" VALUES(1,'0000000000000000000000000000000000000000000000000000000000000002','.png',1,4,4,0,NULL,NULL);
CREATE TABLE products (
	id INTEGER NOT NULL, 
	station_id INTEGER NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	created_at BIGINT NOT NULL, 
	entry_id INTEGER, 
	CONSTRAINT products_key PRIMARY KEY (id), 
	CONSTRAINT products_station_id_once UNIQUE (station_id, name), 
	CONSTRAINT products_station_id_of FOREIGN KEY(station_id) REFERENCES stations (id)
);
INSERT INTO "products" VALUES(1,1,'plate',1796050563312516,NULL);
INSERT INTO "products" VALUES(2,1,'disc',1796050563328733,NULL);
CREATE TABLE removed_files (
	product_id INTEGER NOT NULL, 
	"key" VARCHAR(200) NOT NULL, 
	picture VARCHAR(64) NOT NULL, 
	inspection_id BIGINT NOT NULL, 
	CONSTRAINT removed_files_key PRIMARY KEY (product_id, "key"), 
	CONSTRAINT removed_files_product_id_of FOREIGN KEY(product_id) REFERENCES products (id)
);
CREATE TABLE sessions (
	hash VARCHAR(64) NOT NULL, 
	user_id INTEGER NOT NULL, 
	created_at BIGINT NOT NULL, 
	expires_at BIGINT NOT NULL, 
	CONSTRAINT sessions_key PRIMARY KEY (hash), 
	CONSTRAINT sessions_user_id_of FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE
);
CREATE TABLE stations (
	id INTEGER NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	folder VARCHAR(32), 
	started_at BIGINT, 
	clock_at BIGINT, 
	settings TEXT, 
	CONSTRAINT stations_key PRIMARY KEY (id), 
	CONSTRAINT stations_name_once UNIQUE (name), 
	CONSTRAINT stations_folder_once UNIQUE (folder)
);
INSERT INTO "stations" VALUES(1,'station',NULL,NULL,NULL,NULL);
CREATE TABLE tokens (
	id INTEGER NOT NULL, 
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
CREATE TABLE undelivered (
	product_id INTEGER NOT NULL, 
	sink VARCHAR(80) NOT NULL, 
	inspection_id BIGINT NOT NULL, 
	verdict_id BIGINT NOT NULL, 
	at BIGINT NOT NULL, 
	why TEXT NOT NULL, 
	again BOOLEAN NOT NULL, 
	CONSTRAINT undelivered_key PRIMARY KEY (product_id, sink, inspection_id, verdict_id), 
	CONSTRAINT undelivered_product_id_of FOREIGN KEY(product_id) REFERENCES products (id)
);
CREATE TABLE users (
	id INTEGER NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	password TEXT NOT NULL, 
	role VARCHAR(16) NOT NULL, 
	created_at BIGINT NOT NULL, 
	subject TEXT, 
	CONSTRAINT users_key PRIMARY KEY (id), 
	CONSTRAINT users_name_once UNIQUE (name)
);
CREATE TABLE verdicts (
	id INTEGER NOT NULL, 
	inspection_id INTEGER NOT NULL, 
	product_id INTEGER NOT NULL, 
	verdict VARCHAR(8) NOT NULL, 
	at BIGINT NOT NULL, 
	who VARCHAR(64) NOT NULL, 
	mask VARCHAR(64), 
	note TEXT NOT NULL, 
	kind TEXT, 
	"key" VARCHAR(200), 
	CONSTRAINT verdicts_key PRIMARY KEY (id), 
	CONSTRAINT verdicts_product_id_of FOREIGN KEY(product_id) REFERENCES products (id), 
	CONSTRAINT verdicts_inspection_id_of FOREIGN KEY(inspection_id) REFERENCES inspections (id)
);
INSERT INTO "verdicts" VALUES(1,2,1,'defect',1796050563322985,'anna',NULL,'',NULL,NULL);
CREATE TABLE versions (
	id INTEGER NOT NULL, 
	product_id INTEGER NOT NULL, 
	hash VARCHAR(64) NOT NULL, 
	file TEXT NOT NULL, 
	origin TEXT NOT NULL, 
	facts TEXT NOT NULL, 
	created_at BIGINT NOT NULL, 
	state VARCHAR(8) NOT NULL, 
	CONSTRAINT versions_key PRIMARY KEY (id), 
	CONSTRAINT versions_product_id_of FOREIGN KEY(product_id) REFERENCES products (id)
);
INSERT INTO "versions" VALUES(1,1,'1111111111111111111111111111111111111111111111111111111111111111','none','','{"score_threshold": 1.0}',0,'retired');
INSERT INTO "versions" VALUES(2,1,'2222222222222222222222222222222222222222222222222222222222222222','none','','{"score_threshold": 1.0}',0,'active');
INSERT INTO "versions" VALUES(3,1,'3333333333333333333333333333333333333333333333333333333333333333','none','','{"score_threshold": 1.0}',0,'ready');
INSERT INTO "versions" VALUES(4,1,'4444444444444444444444444444444444444444444444444444444444444444','none','','{"score_threshold": 1.0}',0,'ready');
INSERT INTO "versions" VALUES(5,2,'5555555555555555555555555555555555555555555555555555555555555555','none','','{"score_threshold": 1.0}',0,'ready');
CREATE TABLE views (
	inspection_id INTEGER NOT NULL, 
	place INTEGER NOT NULL, 
	product_id INTEGER NOT NULL, 
	picture VARCHAR(64) NOT NULL, 
	"view" TEXT NOT NULL, 
	name TEXT NOT NULL, 
	"key" VARCHAR(200), 
	score DOUBLE NOT NULL, 
	p_value DOUBLE NOT NULL, 
	severity DOUBLE NOT NULL, 
	score_threshold DOUBLE NOT NULL, 
	anomalous BOOLEAN NOT NULL, 
	tolerated BOOLEAN NOT NULL, 
	record TEXT NOT NULL, 
	CONSTRAINT views_key PRIMARY KEY (inspection_id, place), 
	CONSTRAINT views_product_id_of FOREIGN KEY(product_id) REFERENCES products (id), 
	CONSTRAINT views_inspection_id_of FOREIGN KEY(inspection_id) REFERENCES inspections (id), 
	CONSTRAINT views_picture_of FOREIGN KEY(product_id, picture) REFERENCES pictures (product_id, hash)
);
CREATE UNIQUE INDEX users_subject ON users (subject);
CREATE INDEX versions_product ON versions (product_id, id);
CREATE UNIQUE INDEX versions_once ON versions (product_id, hash) WHERE state != 'removed';
CREATE INDEX versions_hash ON versions (hash);
CREATE UNIQUE INDEX versions_active ON versions (product_id) WHERE state = 'active';
CREATE INDEX pictures_there ON pictures (product_id, hash, bytes) WHERE removed_at IS NULL;
CREATE INDEX pictures_hash ON pictures (hash);
CREATE INDEX events_product ON events (product_id, id);
CREATE INDEX events_at ON events (at);
CREATE INDEX events_kind ON events (product_id, kind, id);
CREATE INDEX hours_hour ON hours (product_id, hour);
CREATE INDEX learnt_pixels_pixels ON learnt_pixels (pixels);
CREATE INDEX jobs_unfinished ON jobs (id) WHERE status = 'queued' OR status = 'running';
CREATE INDEX jobs_draft ON jobs (draft) WHERE draft IS NOT NULL;
CREATE INDEX jobs_product ON jobs (product_id, id);
CREATE INDEX challenges_product ON challenges (product_id, id);
CREATE UNIQUE INDEX inspections_by_key ON inspections (product_id, "key") WHERE "key" IS NOT NULL;
CREATE INDEX inspections_at ON inspections (product_id, at);
CREATE INDEX inspections_part ON inspections (product_id, part, id) WHERE part IS NOT NULL;
CREATE INDEX inspections_reviewed ON inspections (product_id, id) WHERE verdict IS NOT NULL;
CREATE INDEX inspections_trial_version ON inspections (version_id) WHERE purpose = 'trial';
CREATE INDEX inspections_search ON inspections (product_id, id, at, anomalous, tolerated, verdict, review, purpose, unanswered, score, version_id);
CREATE INDEX inspections_trial ON inspections (product_id, id) WHERE purpose = 'trial';
CREATE INDEX inspections_name ON inspections (product_id, name);
CREATE INDEX inspections_challenge ON inspections (product_id, id) WHERE purpose = 'challenge';
CREATE INDEX inspections_batch ON inspections (product_id, batch, id) WHERE batch IS NOT NULL;
CREATE INDEX inspections_waiting ON inspections (product_id, id) WHERE review = 'waiting';
CREATE INDEX inspections_picture ON inspections (product_id, picture);
CREATE INDEX views_file ON views (product_id, "key") WHERE "key" IS NOT NULL;
CREATE INDEX views_picture ON views (product_id, picture);
CREATE INDEX verdicts_mask ON verdicts (mask) WHERE mask IS NOT NULL;
CREATE INDEX verdicts_inspection_id ON verdicts (inspection_id);
CREATE UNIQUE INDEX verdicts_once ON verdicts (inspection_id, "key");
CREATE INDEX verdicts_product ON verdicts (product_id, id);
CREATE VIEW inspection_report AS SELECT
    inspections.id AS inspection, stations.name AS station, products.name AS product, strftime('%Y-%m-%dT%H:%M:%fZ', inspections.at / 1000000.0, 'unixepoch') AS at,
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
COMMIT;
