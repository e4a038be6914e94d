//! The test bed: client -- router -- server, each in a network namespace of its own, and the cut.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use crate::server;
use crate::shared::Failure;
use crate::shared::namespaces::Namespace;

pub(crate) struct Lab {
    router: Namespace,
    client: Namespace,
    server: Namespace,
    directory: PathBuf,
}

impl Lab {
    /// Builds the network; its files are in `directory`.
    pub(crate) fn build(directory: &Path) -> Result<Lab, Failure> {
        let router = Namespace::router(directory, "router")?;
        let client = Namespace::new(directory, "client")?;
        let server = Namespace::new(directory, "server")?;
        client.plug(&router, "client", "198.18.0")?;
        server.plug(&router, "server", "198.19.0")?;
        Ok(Lab { router, client, server, directory: directory.to_owned() })
    }

    /// A file in the test bed's own directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A command on the client's side.
    pub(crate) fn on_client(&self) -> Command {
        self.client.command()
    }

    /// Starts the server in its namespace.
    pub(crate) fn start_server(&self, clients: usize) -> Result<Child, Failure> {
        self.server.serve(&clients.to_string())
    }

    /// From here on the router drops everything in both directions without a word to anybody: a
    /// blackhole route sends no ICMP error, and the router still answers ARP.
    pub(crate) fn cut(&self) -> Result<(), Failure> {
        self.router.shell(
            "ip route add blackhole 198.19.0.2/32
             ip route add blackhole 198.18.0.2/32",
        )
    }

    /// The line of `ss` on the client's side for each client, empty where there is none.
    pub(crate) fn sockets(&self, clients: usize) -> Vec<String> {
        let output = self.on_client().args(["ss", "-Htno"]).output();
        let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
        let text = text.unwrap_or_default();
        let line = |client| {
            // Java's sockets are IPv6 ones: [::ffff:198.19.0.2]:8001.
            let (host, port) = (server::ADDRESS, server::port(client));
            let peers = [format!("{host}:{port}"), format!("[::ffff:{host}]:{port}")];
            let ours = |line: &&str| line.split_whitespace().any(|w| peers.iter().any(|p| p == w));
            text.lines().find(ours).unwrap_or_default().to_owned()
        };
        (0..clients).map(line).collect()
    }
}
