//! Listens, connects, sends and looks up names, with the standard library. wasi:sockets 0.2.
//!
//! | path                 | answer                                                                                  |
//! |----------------------|-----------------------------------------------------------------------------------------|
//! | `/self/PORT`         | a connection of this instance to itself: who listens, who connects, what arrived        |
//! | `/serve/PORT`        | listens, echoes one line of one connection, and answers with it                         |
//! | `/open/PORT`         | listens, for as long as the instance lives                                              |
//! | `/udp/PORT`          | a datagram from this instance to itself, and one back                                   |
//! | `/ask/HOST/PORT`     | connects, sends `ping`, answers with the line that comes back                           |
//! | `/send/HOST/PORT`    | the same with a datagram                                                                |
//! | `/lookup/NAME`       | the addresses of a name                                                                 |
//! | `/many/COUNT`        | how many of so many sockets could be bound at a time                                    |
//!
//! What fails is answered as 502, with the error as text.

use std::cell::RefCell;
use std::io::{BufRead as _, BufReader, Result, Write as _};
use std::net::{TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket};

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

wasip2::http::proxy::export!(Sockets);

struct Sockets;

thread_local! {
    static OPEN: RefCell<Vec<TcpListener>> = const { RefCell::new(Vec::new()) };
}

impl Guest for Sockets {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let (status, text) = match serve(&request.path_with_query().unwrap_or_default()) {
            Ok(text) => (200, text),
            Err(error) => (502, format!("{:?}: {error}\n", error.kind())),
        };
        let answer = OutgoingResponse::new(Fields::new());
        let _ = answer.set_status_code(status);
        let Ok(body) = answer.body() else { return };
        ResponseOutparam::set(response_out, Ok(answer));
        if let Ok(mut stream) = body.write() {
            let _ = stream.write_all(text.as_bytes());
        }
        let _ = OutgoingBody::finish(body, None);
    }
}

fn serve(target: &str) -> Result<String> {
    let parts: Vec<&str> = target.split('/').skip(1).collect();
    let port = |text: &str| text.parse::<u16>().map_err(|error| std::io::Error::other(error.to_string()));
    match parts.as_slice() {
        ["self", number] => {
            let listener = TcpListener::bind(("127.0.0.1", port(number)?))?;
            let mut client = TcpStream::connect(("127.0.0.1", port(number)?))?;
            let (mut server, from) = listener.accept()?;
            client.write_all(b"ping\n")?;
            let heard = line(&server)?;
            server.write_all(b"pong\n")?;
            Ok(format!(
                "listens on {}, connected to {}, as itself: {}; {heard} and {}\n",
                listener.local_addr()?,
                client.peer_addr()?,
                client.local_addr()? == from,
                line(&client)?
            ))
        }
        ["serve", number] => {
            let listener = TcpListener::bind(("0.0.0.0", port(number)?))?;
            let (mut stream, _) = listener.accept()?;
            let heard = line(&stream)?;
            stream.write_all(format!("{heard} from {}\n", stream.local_addr()?).as_bytes())?;
            Ok(format!("{heard}\n"))
        }
        ["open", number] => {
            let listener = TcpListener::bind(("127.0.0.1", port(number)?))?;
            let address = listener.local_addr()?;
            OPEN.with_borrow_mut(|open| open.push(listener));
            Ok(format!("{address}\n"))
        }
        ["udp", number] => {
            let one = UdpSocket::bind(("127.0.0.1", port(number)?))?;
            let other = UdpSocket::bind("127.0.0.1:0")?;
            other.send_to(b"ping", one.local_addr()?)?;
            let mut buffer = [0; 16];
            let (length, from) = one.recv_from(&mut buffer)?;
            let heard = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
            one.send_to(b"pong", from)?;
            let (_, back) = other.recv_from(&mut buffer)?;
            Ok(format!("{heard} came to {}, and back from {back}\n", one.local_addr()?))
        }
        ["ask", host, number] => {
            let mut stream = TcpStream::connect((*host, port(number)?))?;
            stream.write_all(b"ping\n")?;
            Ok(format!("{}\n", line(&stream)?))
        }
        ["send", host, number] => {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.send_to(b"ping", (*host, port(number)?))?;
            let mut buffer = [0; 64];
            let (length, _) = socket.recv_from(&mut buffer)?;
            Ok(format!("{}\n", String::from_utf8_lossy(buffer.get(..length).unwrap_or_default())))
        }
        ["lookup", name] => {
            let addresses: Vec<String> = (*name, 0).to_socket_addrs()?.map(|found| found.ip().to_string()).collect();
            Ok(format!("{}\n", addresses.join(" ")))
        }
        ["many", count] => {
            let sockets: Vec<_> = (0..port(count)?).map_while(|_| UdpSocket::bind("127.0.0.1:0").ok()).collect();
            Ok(format!("{}\n", sockets.len()))
        }
        _ => Ok("see the source\n".to_owned()),
    }
}

fn line(stream: &TcpStream) -> Result<String> {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}
