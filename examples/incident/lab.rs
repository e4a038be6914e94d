//! The test bed: clients -- router -- nodes A and B, each in a network namespace of its own.
//!
//! The router owns the address that the clients know, and gives their connections to A and B in turn, as a
//! Kubernetes service or a load balancer does (DNAT; connections stay where they went first).

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Child;

use clap::ValueEnum;

use crate::shared::Failure;
use crate::shared::namespaces::Namespace;

pub(crate) const SERVICE: Ipv4Addr = Ipv4Addr::new(198, 19, 9, 9);
pub(crate) const PORT: u16 = 80;
const A: &str = "198.19.0.2";
const B: &str = "198.19.1.2";

/// What becomes of the flows that node B had, once the router knows that it is gone.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Reroute {
    /// They still go to B
    None,
    /// They go to A, which does not know them and resets them
    Rst,
    /// They go to A, which does not know them and drops what they send
    Drop,
}

pub(crate) struct Lab {
    router: Namespace,
    pub(crate) clients: Vec<Namespace>,
    a: Namespace,
    servers: Vec<Child>,
}

impl Lab {
    /// Builds the network, its namespaces held by files in `directory`, and starts the server on both nodes.
    pub(crate) fn build(directory: &Path, clients: usize) -> Result<Lab, Failure> {
        let router = Namespace::router(directory, "router")?;
        let (a, b) = (Namespace::new(directory, "a")?, Namespace::new(directory, "b")?);
        a.plug(&router, "a", "198.19.0")?;
        b.plug(&router, "b", "198.19.1")?;
        let mut rules = String::new();
        let client = |number| {
            let name = format!("client{number}");
            // A rule for each, so that each has exactly half of its connections on B.
            rules += &format!("iifname {name} {} dnat to numgen inc mod 2 map {{ 0 : {A}, 1 : {B} }};", service());
            let client = Namespace::new(directory, &name)?;
            client.plug(&router, &name, &format!("198.18.{number}"))?;
            Ok(client)
        };
        let clients = (0..clients).map(client).collect::<Result<_, Failure>>()?;
        router.shell(&format!(
            "nft 'table ip lab {{
               chain service {{ type nat hook prerouting priority -100; {rules} }}
               chain forward {{ type filter hook forward priority 0; }}
             }}'"
        ))?;
        let mut servers = Vec::new();
        for (node, address) in [(&a, A), (&b, B)] {
            let mut server = node.serve(address)?;
            let ready = server.stdout.take().map(|stdout| BufReader::new(stdout).lines().next());
            servers.push(server);
            if !matches!(ready, Some(Some(Ok(_)))) {
                return Err(Failure::Broken("a node's server does not start".to_owned()));
            }
        }
        Ok(Lab { router, clients, a, servers })
    }

    /// Node B is gone: nothing reaches it, nothing comes from it, and nobody is told (no RST, no ICMP; ARP
    /// is still answered).
    pub(crate) fn cut(&self) -> Result<(), Failure> {
        self.router.shell("nft 'add rule ip lab forward iifname b drop; add rule ip lab forward oifname b drop'")
    }

    /// The router has noticed: new connections go to A alone, and B's flows where they are to go.
    pub(crate) fn fail_over(&self, reroute: Reroute) -> Result<(), Failure> {
        self.router
            .shell(&format!("nft 'flush chain ip lab service; add rule ip lab service {} dnat to {A}'", service()))?;
        match reroute {
            Reroute::None => return Ok(()),
            // With B's address A answers to what it knows nothing of.
            Reroute::Rst => self.a.shell(&format!("ip address add {B}/32 dev lo"))?,
            Reroute::Drop => self.a.shell(&format!("ip route add blackhole {B}/32"))?,
        }
        self.router.shell(&format!("ip route add {B}/32 via {A}"))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

fn service() -> String {
    format!("ip daddr {SERVICE} tcp dport {PORT}")
}
