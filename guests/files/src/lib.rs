//! Reads and writes files in its volumes, with nothing but `std::fs`.
//!
//! | request                     | answer                                                                     |
//! |-----------------------------|----------------------------------------------------------------------------|
//! | `GET /PATH`                 | the file, or the names in the directory; 404 if there is none              |
//! | `POST /PATH`                | the request's query is appended to the file: its length                    |
//! | `DELETE /PATH`              | the file is gone                                                           |
//! | `GET /-/fill?DIR`           | bytes that could be written to one file until it was refused, and why      |
//! | `GET /-/rewrite?DIR`        | bytes that could be written over and over to one small file, at most 1 GiB |
//! | `GET /-/orphan?DIR`         | bytes written to files that are removed while they are open                |
//! | `GET /-/many?DIR`           | files that could be made until it was refused                              |
//! | `GET /-/deep?DIR`           | directories, one in the other, that could be made                          |
//! | `GET /-/sparse?DIR`         | whether a file of 1 TiB that is all hole can be had                        |
//! | `GET /-/link?DIR`           | what is behind links that lead out of the directory                        |
//!
//! Errors are answered as 507 with their text.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam};

wasip2::http::proxy::export!(Files);

struct Files;

const CHUNK: usize = 64 << 10;
/// Where an attack gives up because nothing stops it.
const ENOUGH: u64 = 1 << 30;

impl Guest for Files {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let (status, body) = match answer(&request.method(), path, query) {
            Ok(body) => (200, body),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (404, format!("{error}\n").into_bytes()),
            Err(error) => (507, format!("{error}\n").into_bytes()),
        };
        let response = OutgoingResponse::new(Fields::new());
        let _ = response.set_status_code(status);
        let Ok(outgoing) = response.body() else { return };
        ResponseOutparam::set(response_out, Ok(response));
        // An error here means that the caller is gone, and then there is nobody to tell.
        if let Ok(mut stream) = outgoing.write() {
            let _ = stream.write_all(&body);
        }
        let _ = OutgoingBody::finish(outgoing, None);
    }
}

fn answer(method: &Method, path: &str, query: &str) -> io::Result<Vec<u8>> {
    let text = match (method, path.strip_prefix("/-/")) {
        (_, Some("fill")) => fill(query)?,
        (_, Some("rewrite")) => rewrite(query)?,
        (_, Some("orphan")) => orphan(query)?,
        (_, Some("many")) => many(query)?,
        (_, Some("deep")) => deep(query)?,
        (_, Some("sparse")) => sparse(query)?,
        (_, Some("link")) => link(query)?,
        (Method::Get, None) => return read(path),
        (Method::Post, None) => {
            let mut file = OpenOptions::new().append(true).create(true).open(path)?;
            file.write_all(query.as_bytes())?;
            file.metadata()?.len().to_string()
        }
        (Method::Delete, None) => {
            fs::remove_file(path)?;
            String::from("gone")
        }
        _ => return Err(io::ErrorKind::Unsupported.into()),
    };
    Ok(format!("{text}\n").into_bytes())
}

fn read(path: &str) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_dir() {
        return fs::read(path);
    }
    let mut names = fs::read_dir(path)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names.join("\n").into_bytes())
}

/// Write until it is refused.
fn write_all(file: &mut File, most: u64) -> (u64, Option<io::Error>) {
    let chunk = vec![7; CHUNK];
    let mut written = 0;
    while written < most {
        if let Err(error) = file.write_all(&chunk) {
            return (written, Some(error));
        }
        written += CHUNK as u64;
    }
    (written, None)
}

fn say(count: u64, error: Option<io::Error>) -> String {
    match error {
        Some(error) => format!("{count} {:?}", error.kind()),
        None => format!("{count}"),
    }
}

fn fill(dir: &str) -> io::Result<String> {
    let mut file = File::create(format!("{dir}/full"))?;
    let (written, error) = write_all(&mut file, ENOUGH);
    Ok(say(written, error))
}

/// What is written over takes no more room.
fn rewrite(dir: &str) -> io::Result<String> {
    let mut file = File::create(format!("{dir}/small"))?;
    let mut written = 0;
    while written < 64 << 20 {
        file.seek(SeekFrom::Start(0))?;
        let (more, error) = write_all(&mut file, CHUNK as u64);
        written += more;
        if error.is_some() {
            return Ok(say(written, error));
        }
    }
    Ok(say(written, None))
}

/// A file that is in no directory takes room as long as it is open.
fn orphan(dir: &str) -> io::Result<String> {
    let mut open = Vec::new();
    let mut written = 0;
    while written < ENOUGH {
        let path = format!("{dir}/orphan{}", open.len());
        let made = File::create(&path);
        let mut file = match made {
            Ok(file) => file,
            Err(error) => return Ok(say(written, Some(error))),
        };
        fs::remove_file(&path)?;
        let (more, error) = write_all(&mut file, 1 << 20);
        written += more;
        open.push(file);
        if error.is_some() {
            return Ok(say(written, error));
        }
    }
    Ok(say(written, None))
}

fn many(dir: &str) -> io::Result<String> {
    for count in 0..100_000 {
        if let Err(error) = File::create(format!("{dir}/many{count}")) {
            return Ok(say(count, Some(error)));
        }
    }
    Ok(say(100_000, None))
}

fn deep(dir: &str) -> io::Result<String> {
    let mut path = dir.to_owned();
    for count in 0..10_000 {
        path.push_str("/d");
        if let Err(error) = fs::create_dir(&path) {
            return Ok(say(count, Some(error)));
        }
    }
    Ok(say(10_000, None))
}

fn sparse(dir: &str) -> io::Result<String> {
    let mut file = File::create(format!("{dir}/sparse"))?;
    let longer = file.set_len(1 << 40);
    let far = file.seek(SeekFrom::Start(1 << 40)).and_then(|_| file.write_all(b"x"));
    Ok(format!("{:?} {:?}", longer.map_err(|error| error.kind()), far.map_err(|error| error.kind())))
}

#[allow(deprecated, reason = "there is no other stable function for links on WASI")]
fn link(dir: &str) -> io::Result<String> {
    let mut found = Vec::new();
    for (name, to) in [("up", "../../../../etc/passwd"), ("root", "/etc/passwd")] {
        let made = fs::soft_link(to, format!("{dir}/{name}"));
        let read = fs::read(format!("{dir}/{name}")).map(|bytes| bytes.len());
        found.push(format!(
            "{name}: {:?} {:?}",
            made.map_err(|error| error.kind()),
            read.map_err(|error| error.kind())
        ));
    }
    found.push(format!("dots: {:?}", fs::read(format!("{dir}/../../../etc/passwd")).map_err(|error| error.kind())));
    Ok(found.join("; "))
}
