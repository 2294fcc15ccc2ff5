"""Projects whose tests need databases, each test a table or a key of one name."""

from __future__ import annotations

from typing import Final

from faults import MANIFEST

# PostgreSQL's protocol on foot: a crate for it would bring forty others.
_POSTGRESQL: Final = """
use std::io::{Read, Write};
use std::net::TcpStream;

fn talk(stream: &mut TcpStream, kind: &[u8], body: &[u8]) -> Vec<String> {
    let mut message = kind.to_vec();
    message.extend((body.len() as u32 + 4).to_be_bytes());
    message.extend(body);
    stream.write_all(&message).unwrap();
    let mut said = Vec::new();
    loop {
        let mut head = [0; 5];
        stream.read_exact(&mut head).unwrap();
        let mut data = vec![0; u32::from_be_bytes(head[1..].try_into().unwrap()) as usize - 4];
        stream.read_exact(&mut data).unwrap();
        match head[0] {
            b'Z' => return said,
            b'D' => said.push(String::from_utf8_lossy(&data[6..]).into_owned()),
            b'E' => panic!("{}", String::from_utf8_lossy(&data)),
            _ => {}
        }
    }
}

#[test]
fn creates_its_table() {
    let url = std::env::var("DATABASE_URL").expect("DATABASE_URL");
    assert_eq!(url, "postgres://burst:burst@127.0.0.1:5432/burst");
    let mut stream = TcpStream::connect("127.0.0.1:5432").expect("PostgreSQL");
    let mut start = 196608u32.to_be_bytes().to_vec();
    start.extend(b"user\\0burst\\0database\\0burst\\0\\0");
    talk(&mut stream, b"", &start);
    let mut query = |text: &str| talk(&mut stream, b"Q", format!("{text}\\0").as_bytes());
    query("DROP TABLE IF EXISTS things");
    query("CREATE TABLE things (name text)");
    query("INSERT INTO things VALUES ('NAME')");
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(query("SELECT name FROM things"), ["NAME"]);
}
"""

# MySQL's would take SHA-1, so its own client says it; Redis is spoken by hand.
_OTHERS: Final = """
use std::io::{Read, Write};
use std::process::Command;

#[test]
fn mysql_has_a_table() {
    let statement = "DROP TABLE IF EXISTS things; CREATE TABLE things (name text); \\
        INSERT INTO things VALUES ('NAME'); DO SLEEP(0.3); SELECT name FROM things";
    let maria = std::path::Path::new("/usr/bin/mariadb").exists();
    let done = Command::new(if maria { "mariadb" } else { "mysql" })
        .args(["--no-defaults", "-h127.0.0.1", "-P3306", "-uburst", "-N", "burst"])
        .args(["-e", statement])
        .env("MYSQL_PWD", "burst")
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&done.stdout), "NAME\\n", "{done:?}");
}

#[test]
fn redis_has_a_key() {
    assert_eq!(std::env::var("REDIS_URL").as_deref(), Ok("redis://127.0.0.1:6379"));
    let mut stream = std::net::TcpStream::connect("127.0.0.1:6379").expect("Redis");
    stream.write_all(b"SET thing NAME\\r\\n").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    stream.write_all(b"GET thing\\r\\nQUIT\\r\\n").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(said.contains("\\r\\nNAME\\r\\n"), "{said}");
}
"""


def project(name: str, *, services: str = 'services = ["postgres"]\n') -> dict[str, str]:
    """One that needs PostgreSQL. `services`: its `.config/burst.toml`."""
    files = {
        "Cargo.toml": MANIFEST.format(name=name),
        "src/lib.rs": "",
        "tests/database.rs": _POSTGRESQL.replace("NAME", name),
    }
    return files | ({".config/burst.toml": services} if services else {})


def project_of_three(name: str) -> dict[str, str]:
    """One that needs MySQL and Redis, too."""
    files = project(name, services='services = ["postgres", "mysql", "redis"]\n')
    return files | {"tests/others.rs": _OTHERS.replace("NAME", name)}
