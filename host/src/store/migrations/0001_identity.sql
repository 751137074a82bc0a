-- Users, roles and tokens. Written for SQLite and PostgreSQL alike: ids and digests are text, times are seconds since 1970,
-- truth is 1 or 0. All names begin with host_, so that the tables can stand in a database with others.

CREATE TABLE host_roles (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    admin_access BIGINT NOT NULL,
    app_access BIGINT NOT NULL,
    ip_ranges TEXT,
    created BIGINT NOT NULL
);

CREATE TABLE host_users (
    id TEXT NOT NULL PRIMARY KEY,
    email TEXT NOT NULL UNIQUE,
    password TEXT,
    role TEXT REFERENCES host_roles (id) ON DELETE SET NULL,
    status TEXT NOT NULL CHECK (status IN ('active', 'suspended')),
    tokens_since BIGINT NOT NULL,
    created BIGINT NOT NULL
);

CREATE INDEX host_users_role ON host_users (role);

CREATE TABLE host_tokens (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES host_users (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    digest TEXT NOT NULL UNIQUE,
    created BIGINT NOT NULL,
    expires BIGINT,
    last_used BIGINT
);

CREATE INDEX host_tokens_user ON host_tokens (user_id);

CREATE TABLE host_sessions (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES host_users (id) ON DELETE CASCADE,
    created BIGINT NOT NULL,
    expires BIGINT NOT NULL
);

CREATE INDEX host_sessions_user ON host_sessions (user_id);
CREATE INDEX host_sessions_expires ON host_sessions (expires);

CREATE TABLE host_refresh_tokens (
    digest TEXT NOT NULL PRIMARY KEY,
    session_id TEXT NOT NULL REFERENCES host_sessions (id) ON DELETE CASCADE,
    created BIGINT NOT NULL,
    used BIGINT
);

CREATE INDEX host_refresh_tokens_session ON host_refresh_tokens (session_id);

CREATE TABLE host_settings (
    name TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);

-- One row: counted up by each change that takes something away from somebody. Hosts that have cached an answer look at it.
CREATE TABLE host_changes (
    id BIGINT NOT NULL PRIMARY KEY,
    epoch BIGINT NOT NULL
);

INSERT INTO host_changes (id, epoch) VALUES (1, 0);
