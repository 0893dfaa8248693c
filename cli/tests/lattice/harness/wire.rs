//! A way to the server that can be cut, in one direction or both, as a network that loses all packets does: nothing arrives, no
//! connection ends, and what was sent arrives late if the way is mended before anybody gave up.

use std::net::SocketAddr;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// What does not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    Nothing,
    /// What the node sends.
    ToServer,
    /// What the server sends.
    FromServer,
    Both,
}

/// Stands between one node and its server.
pub struct Wire {
    url: String,
    cut: watch::Sender<Cut>,
    _forwarding: JoinSet<()>,
}

impl Wire {
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        let cut = watch::Sender::new(Cut::Nothing);
        let server = SocketAddr::from(([127, 0, 0, 1], port));
        let told = cut.clone();
        let mut forwarding = JoinSet::new();
        forwarding.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((node, _)) = listener.accept().await {
                connections.spawn(forward(node, server, told.subscribe()));
            }
        });
        Self { url, cut, _forwarding: forwarding }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn cut(&self, cut: Cut) {
        self.cut.send_replace(cut);
    }
}

async fn forward(mut node: TcpStream, server: SocketAddr, cut: watch::Receiver<Cut>) {
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    let (from_node, to_node) = node.split();
    let (from_server, to_server) = server.split();
    let up = pump(from_node, to_server, cut.clone(), |cut| matches!(cut, Cut::ToServer | Cut::Both));
    let down = pump(from_server, to_node, cut, |cut| matches!(cut, Cut::FromServer | Cut::Both));
    tokio::select! { // the end of either side is the end of the connection
        () = up => {}
        () = down => {}
    }
}

/// Ends with either end. An end does not pass either while it is cut.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut cut: watch::Receiver<Cut>,
    stops: impl Fn(Cut) -> bool,
) {
    let mut bytes = [0; 16 * 1024];
    loop {
        let read = from.read(&mut bytes).await.unwrap_or(0);
        if cut.wait_for(|cut| !stops(*cut)).await.is_err() || read == 0 || to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
