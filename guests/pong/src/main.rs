//! A service that answers on port 7000 of its workload's private loopback: `pong` to a line, and the same as a response to
//! a request of HTTP. An ordinary program of the standard library; see `services` in the spec.

use std::io::{BufRead as _, BufReader, Result, Write as _};
use std::net::{TcpListener, TcpStream};

const PORT: u16 = 7000;

fn main() -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", PORT))?;
    println!("listens on {}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept()?;
        if let Err(error) = answer(stream) {
            println!("a connection ended: {error}");
        }
    }
}

fn answer(mut stream: TcpStream) -> Result<()> {
    let mut line = String::new();
    let mut reader = BufReader::new(&stream);
    reader.read_line(&mut line)?;
    if !line.contains(" HTTP/1.1") {
        return stream.write_all(b"pong\n");
    }
    while line.trim_end() != "" {
        line.clear();
        reader.read_line(&mut line)?;
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\npong\n")
}
