//! Gives a connection to a child as its standard output, and says what the child sends: `child ADDRESS ROUNDS`.

use std::env;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

fn main() {
    let words: Vec<String> = env::args().collect();
    let rounds: u64 = words[2].parse().expect("a number");
    for _ in 0..rounds {
        let socket: OwnedFd = TcpStream::connect(&words[1]).expect("connect").into();
        let mut child = Command::new("sh");
        child.args(["-c", "sleep 0.1; head -c 300000 /dev/zero"]).env_remove("LD_PRELOAD").stdout(Stdio::from(socket));
        assert!(child.status().expect("sh").success());
    }
    println!("sent {}", rounds * 300_000);
}
