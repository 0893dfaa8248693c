//! Listens, connects, sends and looks up names. wasi:sockets 0.3.
//!
//! | path                 | answer                                                                                  |
//! |----------------------|-----------------------------------------------------------------------------------------|
//! | `/self/PORT`         | a connection of this instance to itself: who listens, who connects, what arrived        |
//! | `/serve/PORT`        | listens, echoes one line of one connection, and answers with it                         |
//! | `/udp/PORT`          | a datagram from this instance to itself, and one back                                   |
//! | `/ask/HOST/PORT`     | connects, sends `ping`, answers with the line that comes back                           |
//! | `/send/HOST/PORT`    | the same with a datagram                                                                |
//! | `/lookup/NAME`       | the addresses of a name                                                                 |
//! | `/many/COUNT`        | how many of so many sockets could be bound at a time                                    |
//! | `/listen-on/COUNT`   | the same with listeners of which only the stream of their connections is kept           |
//! | `/ready-on/COUNT`    | how many of so many listeners, one after the other, could let in a connection that nobody takes |
//! | `/receive-on/COUNT/HOST/PORT` | how many of so many connections could be open at a time, if only what they receive is kept |
//! | `/send-on/COUNT/HOST/PORT`    | the same with what they send                                                   |
//!
//! What fails is answered as 502, with the error code as text.

use std::net::Ipv4Addr;

use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode as HttpError, Fields, Request, Response};
use wasip3::sockets::ip_name_lookup;
use wasip3::sockets::types::{
    IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress, TcpSocket, UdpSocket,
};
use wasip3::wit_bindgen::StreamResult;
use wasip3::{spawn_local, wit_future, wit_stream};

wasip3::http::service::export!(Sockets);

struct Sockets;

impl Guest for Sockets {
    async fn handle(request: Request) -> Result<Response, HttpError> {
        let (status, text) = match serve(&request.get_path_with_query().unwrap_or_default()).await {
            Ok(text) => (200, text),
            Err(error) => (502, format!("{error}\n")),
        };
        let (mut writer, reader) = wit_stream::new();
        spawn_local(async move {
            writer.write_all(text.into_bytes()).await;
        });
        let (_writer, trailers) = wit_future::new(|| Ok(None));
        let (answer, _sent) = Response::new(Fields::new(), Some(reader), trailers);
        let _ = answer.set_status_code(status);
        Ok(answer)
    }
}

async fn serve(target: &str) -> Result<String, String> {
    let parts: Vec<&str> = target.split('/').skip(1).collect();
    let port = |text: &str| text.parse::<u16>().map_err(|error| error.to_string());
    match parts.as_slice() {
        ["self", number] => {
            let listener = tcp_bound(Ipv4Addr::LOCALHOST, port(number)?)?;
            let mut connections = listener.listen().map_err(text)?;
            let client = TcpSocket::create(IpAddressFamily::Ipv4).map_err(text)?;
            client.connect(v4(Ipv4Addr::LOCALHOST, port(number)?)).await.map_err(text)?;
            let server = connections.next().await.ok_or("nobody came")?;
            // Once both have said all, the connection has no addresses any more.
            let shown = |address: Result<IpSocketAddress, _>| address.map(show).map_err(text);
            let (here, there) = (shown(listener.get_local_address())?, shown(client.get_remote_address())?);
            let as_itself = shown(client.get_local_address())? == shown(server.get_remote_address())?;
            say(&client, "ping\n").await?;
            let heard = line(&server).await;
            say(&server, "pong\n").await?;
            let answered = line(&client).await;
            Ok(format!("listens on {here}, connected to {there}, as itself: {as_itself}; {heard} and {answered}\n"))
        }
        ["serve", number] => {
            let listener = tcp_bound(Ipv4Addr::UNSPECIFIED, port(number)?)?;
            let mut connections = listener.listen().map_err(text)?;
            let stream = connections.next().await.ok_or("nobody came")?;
            let heard = line(&stream).await;
            let local = show(stream.get_local_address().map_err(text)?);
            say(&stream, &format!("{heard} from {local}\n")).await?;
            Ok(format!("{heard}\n"))
        }
        ["udp", number] => {
            let one = udp_bound(Ipv4Addr::LOCALHOST, port(number)?)?;
            let other = UdpSocket::create(IpAddressFamily::Ipv4).map_err(text)?;
            other.bind(v4(Ipv4Addr::LOCALHOST, 0)).map_err(text)?;
            let address = one.get_local_address().map_err(text)?;
            other.send(b"ping".to_vec(), Some(address)).await.map_err(text)?;
            let (data, from) = one.receive().await.map_err(text)?;
            one.send(b"pong".to_vec(), Some(from)).await.map_err(text)?;
            let (_, back) = other.receive().await.map_err(text)?;
            let heard = String::from_utf8_lossy(&data).into_owned();
            Ok(format!("{heard} came to {}, and back from {}\n", show(address), show(back)))
        }
        ["ask", host, number] => {
            let (address, family) = first(host, port(number)?).await?;
            let stream = TcpSocket::create(family).map_err(text)?;
            stream.connect(address).await.map_err(text)?;
            say(&stream, "ping\n").await?;
            Ok(format!("{}\n", line(&stream).await))
        }
        ["send", host, number] => {
            let (address, family) = first(host, port(number)?).await?;
            let socket = UdpSocket::create(family).map_err(text)?;
            socket.send(b"ping".to_vec(), Some(address)).await.map_err(text)?;
            let (data, _) = socket.receive().await.map_err(text)?;
            Ok(format!("{}\n", String::from_utf8_lossy(&data)))
        }
        ["lookup", name] => {
            let found = ip_name_lookup::resolve_addresses((*name).to_owned()).await.map_err(text)?;
            let shown: Vec<String> = found.into_iter().map(|address| show(with_port(address, 0).0)).collect();
            Ok(format!("{}\n", shown.join(" ")))
        }
        ["many", count] => {
            let sockets: Vec<_> = (0..port(count)?).map_while(|_| udp_bound(Ipv4Addr::LOCALHOST, 0).ok()).collect();
            Ok(format!("{}\n", sockets.len()))
        }
        ["listen-on", count] => {
            let listen = |_| tcp_bound(Ipv4Addr::LOCALHOST, 0).ok()?.listen().ok();
            let listeners: Vec<_> = (0..port(count)?).map_while(listen).collect();
            Ok(format!("{}\n", listeners.len()))
        }
        ["ready-on", count] => {
            let mut done = 0;
            while done < port(count)? && let_in().await.is_ok() {
                done += 1;
            }
            Ok(format!("{done}\n"))
        }
        ["receive-on", count, host, number] => {
            connections(port(count)?, host, port(number)?, |socket| socket.receive()).await
        }
        ["send-on", count, host, number] => {
            let send = |socket: &TcpSocket| {
                let (writer, reader) = wit_stream::new::<u8>();
                (writer, socket.send(reader))
            };
            connections(port(count)?, host, port(number)?, send).await
        }
        _ => Ok("see the source\n".to_owned()),
    }
}

/// A listener that is told of a connection, and ends before it takes it.
async fn let_in() -> Result<(), String> {
    let listener = tcp_bound(Ipv4Addr::LOCALHOST, 0)?;
    let mut connections = listener.listen().map_err(text)?;
    let client = TcpSocket::create(IpAddressFamily::Ipv4).map_err(text)?;
    client.connect(listener.get_local_address().map_err(text)?).await.map_err(text)?;
    connections.read(Vec::new()).await; // of no length: it says that there is one
    Ok(())
}

/// Connects as often as that is possible, at most `count` times, and keeps what `keep` makes of each socket.
async fn connections<T>(count: u16, host: &str, port: u16, keep: impl Fn(&TcpSocket) -> T) -> Result<String, String> {
    let (address, family) = first(host, port).await?;
    let mut kept = Vec::new();
    for _ in 0..count {
        let Ok(socket) = TcpSocket::create(family) else { break };
        socket.connect(address).await.map_err(text)?;
        kept.push(keep(&socket));
    }
    Ok(format!("{}\n", kept.len()))
}

fn text(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

fn tcp_bound(address: Ipv4Addr, port: u16) -> Result<TcpSocket, String> {
    let socket = TcpSocket::create(IpAddressFamily::Ipv4).map_err(text)?;
    socket.bind(v4(address, port)).map_err(text)?;
    Ok(socket)
}

fn udp_bound(address: Ipv4Addr, port: u16) -> Result<UdpSocket, String> {
    let socket = UdpSocket::create(IpAddressFamily::Ipv4).map_err(text)?;
    socket.bind(v4(address, port)).map_err(text)?;
    Ok(socket)
}

async fn first(host: &str, port: u16) -> Result<(IpSocketAddress, IpAddressFamily), String> {
    let found = ip_name_lookup::resolve_addresses(host.to_owned()).await.map_err(text)?;
    found.into_iter().next().map(|address| with_port(address, port)).ok_or_else(|| "no address".to_owned())
}

/// Sends a text and nothing after it.
async fn say(socket: &TcpSocket, text: &str) -> Result<(), String> {
    let (mut writer, reader) = wit_stream::new();
    let sent = socket.send(reader);
    writer.write_all(text.as_bytes().to_vec()).await;
    drop(writer);
    sent.await.map_err(self::text)
}

async fn line(socket: &TcpSocket) -> String {
    let (mut reader, _end) = socket.receive();
    let mut line = Vec::new();
    while !line.contains(&b'\n') {
        let (result, bytes) = reader.read(Vec::with_capacity(64)).await;
        line.extend(bytes);
        if !matches!(result, StreamResult::Complete(_)) {
            break;
        }
    }
    String::from_utf8_lossy(&line).trim_end().to_owned()
}

fn v4(address: Ipv4Addr, port: u16) -> IpSocketAddress {
    let [a, b, c, d] = address.octets();
    IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (a, b, c, d) })
}

fn with_port(address: IpAddress, port: u16) -> (IpSocketAddress, IpAddressFamily) {
    match address {
        IpAddress::Ipv4(address) => (IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address }), IpAddressFamily::Ipv4),
        IpAddress::Ipv6(address) => {
            let address = Ipv6SocketAddress { port, flow_info: 0, address, scope_id: 0 };
            (IpSocketAddress::Ipv6(address), IpAddressFamily::Ipv6)
        }
    }
}

fn show(address: IpSocketAddress) -> String {
    match address {
        IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (a, b, c, d) }) => format!("{a}.{b}.{c}.{d}:{port}"),
        IpSocketAddress::Ipv6(address) => format!("{:?}", address),
    }
}
