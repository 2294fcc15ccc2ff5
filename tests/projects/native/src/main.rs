//! Compresses with two C libraries and asks a third one what it got.

use std::io::Write;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let text = "the quick brown fox jumps over the lazy dog ".repeat(100);

    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    zlib.write_all(text.as_bytes())?;
    let zlib = zlib.finish()?;
    let zstd = zstd::encode_all(text.as_bytes(), 3)?;

    let db = rusqlite::Connection::open_in_memory()?;
    db.execute("create table packed (how text, data blob)", [])?;
    db.execute("insert into packed values ('zlib', ?1), ('zstd', ?2)", (&zlib, &zstd))?;
    let mut rows = db.prepare("select how, length(data) < ?1 from packed order by how")?;
    let mut rows = rows.query([text.len()])?;
    while let Some(row) = rows.next()? {
        println!("{} smaller: {}", row.get::<_, String>(0)?, row.get::<_, bool>(1)?);
    }
    Ok(())
}
