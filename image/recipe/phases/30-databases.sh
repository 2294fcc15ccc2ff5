#!/bin/sh
# PostgreSQL, MySQL (on Debian MariaDB) and Redis: installed, none starts at boot. Each has an account
# and a database `burst`, password `burst`: no secret, they listen on this machine only and hold what
# tests write. /etc/burst/services says how to get at them.
. "$recipe/lib.sh"

for unit in postgresql.service mysql.service mariadb.service redis-server.service; do
    if systemctl cat "$unit" >/dev/null 2>&1; then
        systemctl disable --now --quiet "$unit" 2>/dev/null || :
    fi
done

wait_for() { # SECONDS COMMAND…
    left=$1
    shift
    until "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || die "no answer: $*"
        sleep 1
    done
}

postgres() {
    version=$(pg_lsclusters -h | awk '$2 == "main" { print $1; exit }')
    [ -n "$version" ] || die 'PostgreSQL has no cluster'
    # Its certificate would be the same on every server; loopback needs none.
    pg_conftool "$version" main set ssl off
    pg_ctlcluster --skip-systemctl-redirect "$version" main start || [ $? -eq 2 ]
    wait_for 60 runuser -u postgres -- psql -qc 'select 1'
    runuser -u postgres -- psql -q -v ON_ERROR_STOP=1 <<'SQL'
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'burst') THEN
    CREATE ROLE burst LOGIN SUPERUSER PASSWORD 'burst';
  END IF;
END $$;
SELECT 'CREATE DATABASE burst OWNER burst'
  WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'burst')
\gexec
SQL
    PGPASSWORD=burst psql -h 127.0.0.1 -U burst -qtAc 'select version()' burst
    pg_ctlcluster --skip-systemctl-redirect "$version" main stop -m fast
}

mysql_server() {
    daemon=$(command -v mysqld || command -v mariadbd) || die 'there is no MySQL'
    client=$(command -v mysql || command -v mariadb)
    admin=$(command -v mysqladmin || command -v mariadb-admin)
    install -d -o mysql -g mysql -m 755 /run/mysqld
    # Root of the socket is root here, on both systems.
    socket=/run/mysqld/mysqld.sock
    "$daemon" --user=mysql --bind-address=127.0.0.1 --socket="$socket" >"$work/mysql.log" 2>&1 &
    wait_for 90 "$admin" --socket="$socket" ping
    "$client" --socket="$socket" <<'SQL'
CREATE USER IF NOT EXISTS 'burst'@'localhost' IDENTIFIED BY 'burst';
CREATE USER IF NOT EXISTS 'burst'@'127.0.0.1' IDENTIFIED BY 'burst';
GRANT ALL PRIVILEGES ON *.* TO 'burst'@'localhost' WITH GRANT OPTION;
GRANT ALL PRIVILEGES ON *.* TO 'burst'@'127.0.0.1' WITH GRANT OPTION;
CREATE DATABASE IF NOT EXISTS burst;
SQL
    MYSQL_PWD=burst "$client" -h 127.0.0.1 -P 3306 -u burst -N -e 'select version()' burst
    "$admin" --socket="$socket" shutdown
    wait
}

redis() {
    redis-server --port 6379 --bind 127.0.0.1 --save '' --dir "$work" >"$work/redis.log" 2>&1 &
    wait_for 30 redis-cli -h 127.0.0.1 ping
    redis-cli -h 127.0.0.1 info server | sed -n 's/^redis_version:/Redis /p'
    redis-cli -h 127.0.0.1 shutdown nosave || :
    wait
}

postgres
mysql_server
redis
mkdir -p /etc/burst
cat >/etc/burst/services <<'END'
postgresql postgres://burst:burst@127.0.0.1:5432/burst
mysql mysql://burst:burst@127.0.0.1:3306/burst
redis redis://127.0.0.1:6379/0
END
