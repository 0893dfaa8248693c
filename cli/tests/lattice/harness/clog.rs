//! A way to the server that can be clogged: what the server sends is not read any more, as by a client that is too slow.

use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// As little as the kernel gives: what it holds hides that nobody reads.
const RECEIVE_BYTES: u32 = 4096;

/// Stands between one node and its server.
pub struct Way {
    url: String,
    clogged: watch::Sender<u64>,
    _forwarding: JoinSet<()>,
}

impl Way {
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        let (clogged, _) = watch::channel(0);
        let server = SocketAddr::from(([127, 0, 0, 1], port));
        let told = clogged.clone();
        let mut forwarding = JoinSet::new();
        forwarding.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((node, _)) = listener.accept().await {
                connections.spawn(forward(node, server, told.subscribe()));
            }
        });
        Self { url, clogged, _forwarding: forwarding }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Read no more of what comes on the connections that there are. New ones are as ever.
    pub fn clog(&self) {
        self.clogged.send_modify(|times| *times += 1);
    }
}

/// Ends with either side.
async fn forward(mut node: TcpStream, server: SocketAddr, mut clogged: watch::Receiver<u64>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(RECEIVE_BYTES).unwrap();
    let Ok(mut server) = socket.connect(server).await else { return };
    let (mut from_node, mut to_node) = node.split();
    let (mut from_server, mut to_server) = server.split();
    let down = async {
        let mut bytes = [0; RECEIVE_BYTES as usize];
        loop {
            let read = tokio::select! {
                biased;
                _ = clogged.changed() => std::future::pending().await,
                read = from_server.read(&mut bytes) => read.unwrap_or(0),
            };
            if read == 0 || to_node.write_all(&bytes[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = down => {}
        _ = copy(&mut from_node, &mut to_server) => {}
    }
}
