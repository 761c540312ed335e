//! turmoil's network, as the agent's.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use async_trait::async_trait;
use tokio::net::TcpListener;
use trine_platform::{BoxStream, Listener, Network};

/// The network of the host that uses it.
#[derive(Clone, Copy, Debug)]
pub(super) struct SimNetwork;

#[async_trait]
impl Network for SimNetwork {
    async fn connect(&self, to: SocketAddr) -> io::Result<BoxStream> {
        Ok(Box::new(turmoil::net::TcpStream::connect(to).await?))
    }

    async fn listen(&self, on: SocketAddr) -> io::Result<Box<dyn Listener>> {
        // A simulated host has one address.
        let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), on.port());
        Ok(Box::new(SimListener(turmoil::net::TcpListener::bind(any).await?)))
    }
}

struct SimListener(turmoil::net::TcpListener);

#[async_trait]
impl Listener for SimListener {
    async fn accept(&mut self) -> io::Result<(BoxStream, SocketAddr)> {
        let (stream, from) = self.0.accept().await?;
        Ok((Box::new(stream), from))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn into_tcp(self: Box<Self>) -> Result<TcpListener, Box<dyn Listener>> {
        Err(self)
    }
}
