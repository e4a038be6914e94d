//! A network of a test's own, made without root: the loopback alone, or client - router - server with a link that
//! can be cut without a word to either side. What the kernel holds for each socket in it is read from outside.
//!
//! Everything started in a lab lives in its process namespace, whose first process reads a pipe that this test
//! holds: when the test goes, however it goes, the kernel ends all of it.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::{USERS, is_root, library, plain, root, scratch, search_path, text};

/// Longer than anything takes that a test waits for without measuring it, on a machine that has much else to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// The server's addresses that vanish at the cut, and one that does not. The client keeps `CLIENT_ALIVE` for it.
pub(crate) const SERVER: &str = "198.19.0.2";
pub(crate) const SERVER_V6: &str = "2001:db8:19::2";
pub(crate) const SERVER_ALIVE: &str = "198.19.0.3";
pub(crate) const CLIENT_ALIVE: &str = "198.18.0.3";

/// The reverse path filter must be off: with it the router would, after the cut, not even answer ARP.
const LINK: &str = "
mount -t tmpfs tmpfs /run && mkdir /run/netns && truncate -s 1G /run/upload
echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter
echo 0 >/proc/sys/net/ipv4/conf/default/rp_filter
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
for side in client:18 server:19; do
    name=${side%:*} net=${side#*:}
    ip netns add $name
    ip link add $name type veth peer name eth0 netns $name
    ip address add 198.$net.0.1/24 dev $name
    ip address add 2001:db8:$net::1/64 dev $name nodad
    ip link set $name up
    for last in 2 3; do ip -n $name address add 198.$net.0.$last/24 dev eth0; done
    ip -n $name address add 2001:db8:$net::2/64 dev eth0 nodad
    ip -n $name link set lo up
    ip -n $name link set eth0 up
    ip -n $name route add default via 198.$net.0.1
    ip -n $name route add default via 2001:db8:$net::1
done";

/// Blackhole routes drop without an ICMP error, and the router still answers ARP and neighbour solicitations.
const CUT: &str = "\
route add blackhole 198.18.0.2/32
route add blackhole 198.19.0.2/32
route add blackhole 2001:db8:18::2/128
route add blackhole 2001:db8:19::2/128
";

/// Every TCP socket of every process in the lab, a line each. No field is ever empty.
const READER: &str = r#"
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def name(address):
    return "%s %d" % (address[0].split("%")[0], address[1])
for pid in filter(str.isdigit, os.listdir("/proc")):
    if int(pid) == os.getpid():
        continue
    try:
        program = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
        pidfd = os.pidfd_open(int(pid))
        for fd in os.listdir(f"/proc/{pid}/fd"):
            if not os.readlink(f"/proc/{pid}/fd/{fd}").startswith("socket:"):
                continue
            copy = libc.syscall(438, pidfd, int(fd), 0)  # pidfd_getfd
            if copy < 0:
                if ctypes.get_errno() in (3, 9):  # ESRCH, EBADF: it has been closed since
                    continue
                raise SystemExit("pidfd_getfd is refused")
            s = socket.socket(fileno=copy)
            if s.family not in (socket.AF_INET, socket.AF_INET6) or s.type != socket.SOCK_STREAM:
                continue
            try:
                peer = name(s.getpeername())
            except OSError:
                peer = "- 0"
            state = s.getsockopt(6, socket.TCP_INFO, 1)[0]
            options = [s.getsockopt(1, 9)] + [s.getsockopt(6, option) for option in (4, 5, 6, 18)]
            print(program, pid, state, name(s.getsockname()), peer, *options)
    except (FileNotFoundError, ProcessLookupError):
        pass  # it ended meanwhile
"#;

/// An HTTP server that says the port of each request that has arrived (of a large body, its beginning) and answers
/// when it is told to, by a line on its standard input.
const SERVE: &str = r#"
import asyncio, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
async def main():
    go = asyncio.Event()
    async def serve(reader, writer):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.lower().split(b"\r\n")
            missing = sum(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:"))
            enough = missing - min(missing, 1 << 18)
            while missing > enough:
                missing -= len(await reader.read(1 << 16))
            path = head.split()[1]
            if path == b"/_ping":  # Docker's client asks before it begins
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                await writer.drain()
                writer.close()
                return
            print(writer.get_extra_info("sockname")[1], flush=True)
            if b"transfer-encoding: chunked" in head.lower():
                missing = 1 << 40
            while missing > 0 and (missing < 1 << 40 or not reader.at_eof()):
                missing -= len(await reader.read(1 << 16))
            await go.wait()
            body = b"hello from " + path + b"\n"
            if path.endswith(b"/events"):
                body = b'{"Type":"container","Action":"start","Actor":{"ID":"abc"},"time":1}\n'
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body))
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        writer.close()
    servers = [await asyncio.start_server(serve, None, int(port), backlog=4096) for port in sys.argv[1:]]
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    go.set()
    await asyncio.Event().wait()
asyncio.run(main())
"#;

/// Where in a lab.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The only one there is without a link; with one, the router.
    Here,
    Client,
    Server,
    /// A namespace that the test has made.
    Guest,
}

pub(crate) struct Lab {
    holder: Child,
}

/// SO_KEEPALIVE, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_USER_TIMEOUT.
pub(crate) type Options = [i64; 5];

/// A socket as the kernel has it. IPv4-mapped addresses are shown as IPv4.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Socket {
    pub(crate) program: String,
    pub(crate) pid: u32,
    pub(crate) state: State,
    pub(crate) local: SocketAddr,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) options: Options,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Established,
    Listening,
    Other,
}

impl Lab {
    /// A loopback.
    pub(crate) fn new() -> Lab {
        let options = ["--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--mount-proc"];
        let mut holder = plain("unshare");
        holder.args(options).args(["--kill-child", "sh", "-c", "echo ready && exec cat"]);
        let mut holder = holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("unshare");
        let output = BufReader::new(holder.stdout.take().expect("a pipe"));
        Lab { holder }.begin(output)
    }

    /// A loopback, and users besides root: programs may become another one.
    pub(crate) fn with_users() -> Lab {
        let rest = ["--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"];
        let first = "echo ready && exec cat";
        let mut holder = plain("unshare");
        holder.arg("--user");
        if is_root() {
            // Its maps are written from outside, between the two.
            let inner = format!("echo unmapped && read _ && exec unshare {} sh -c '{first}'", rest.join(" "));
            holder.args(["sh", "-c", &inner]);
        } else {
            holder.args(["--map-root-user", "--map-auto"]).args(rest).args(["sh", "-c", first]);
        }
        let mut holder = holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("unshare");
        let mut output = BufReader::new(holder.stdout.take().expect("a pipe"));
        let mut lab = Lab { holder };
        if is_root() {
            let _ = output.read_line(&mut String::new());
            for map in ["uid_map", "gid_map"] {
                let file = format!("/proc/{}/{map}", lab.holder.id());
                fs::write(file, format!("0 0 {USERS}")).expect("root may write the maps");
            }
            lab.holder.stdin.as_mut().expect("a pipe").write_all(b"\n").expect("it reads");
        }
        lab.begin(output)
    }

    fn begin(self, mut output: impl BufRead) -> Lab {
        let mut ready = String::new();
        let _ = output.read_line(&mut ready);
        assert_eq!(ready, "ready\n", "no namespaces");
        self.shell(Place::Here, "ip link set lo up");
        self
    }

    /// Client, router and server.
    pub(crate) fn with_link() -> Lab {
        let lab = Lab::new();
        lab.shell(Place::Here, LINK);
        lab
    }

    /// From here on nothing of what either side sends reaches the other; returns when that was.
    pub(crate) fn cut(&self) -> Instant {
        let at = Instant::now();
        self.shell(Place::Here, &format!("ip -batch - <<'end'\n{CUT}end"));
        at
    }

    /// A command in the lab, with this environment (`NAME=VALUE`) besides a neutral one.
    pub(crate) fn command(&self, place: Place, environment: &[&str], program: impl AsRef<OsStr>) -> Command {
        let mut command = plain("nsenter");
        let pid = self.holder.id();
        command.arg("--target").arg(pid.to_string()).args(["--user", "--mount", "--net", "--preserve-credentials"]);
        command.arg(format!("--pid=/proc/{pid}/ns/pid_for_children")).arg("--");
        if let Some(name) = [None, Some("client"), Some("server"), Some("guest")][place as usize] {
            command.args(["nsenter", &format!("--net=/run/netns/{name}"), "--"]);
        }
        for name in ["http_proxy", "all_proxy", "ALL_PROXY", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS"] {
            command.env_remove(name);
        }
        command.env("PATH", search_path()).env("LC_ALL", "C");
        command.arg("env").args(environment).arg(program);
        command
    }

    /// The same under the library if there is an environment for it.
    pub(crate) fn covered(&self, place: Place, environment: &[&str], program: impl AsRef<OsStr>) -> Command {
        let preload = format!("LD_PRELOAD={}", library().display());
        let environment: Vec<&str> = environment.iter().copied().chain([&*preload]).collect();
        self.command(place, if environment.len() == 1 { &[] } else { &environment }, program)
    }

    /// Of its own.
    pub(crate) fn id(&self) -> u32 {
        self.holder.id()
    }

    /// Runs a shell script to its end, which must be a good one.
    pub(crate) fn shell(&self, place: Place, script: &str) -> String {
        let output = self.command(place, &[], "sh").args(["-ec", script]).output().expect("nsenter");
        let (stdout, stderr) = text(&output);
        assert!(output.status.success(), "{script}: {stderr}");
        stdout
    }

    /// Every TCP socket of every process here.
    pub(crate) fn sockets(&self) -> Vec<Socket> {
        let output = self.command(Place::Here, &[], "python3").args(["-c", READER]).output().expect("nsenter");
        let (stdout, stderr) = text(&output);
        assert!(output.status.success(), "{stderr}");
        stdout.lines().map(|line| Socket::parse(line).unwrap_or_else(|| panic!("{line:?}"))).collect()
    }

    /// The sockets that `of_interest` picks, once there are as many as `enough`.
    pub(crate) fn wait_for(&self, enough: usize, of_interest: impl Fn(&Socket) -> bool) -> Vec<Socket> {
        let until = Instant::now() + PATIENCE;
        loop {
            let all = self.sockets();
            let found: Vec<Socket> = all.iter().filter(|socket| of_interest(socket)).cloned().collect();
            if found.len() >= enough {
                return found;
            }
            assert!(Instant::now() < until, "{} of {enough} sockets after {PATIENCE:?}; all: {all:#?}", found.len());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// An HTTP server on these ports.
    pub(crate) fn serve(&self, place: Place, ports: &[u16]) -> Server {
        let mut command = self.command(place, &[], "python3");
        command.args(["-c", SERVE]).args(ports.iter().map(u16::to_string));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("nsenter");
        let (sender, lines) = mpsc::channel();
        send_lines(child.stdout.take().expect("a pipe"), sender);
        let server = Server { go: child.stdin.take(), lines };
        thread::spawn(move || child.wait());
        assert!(server.line().is_some_and(|(_, line)| line == "ready"), "the server does not start");
        server
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // The first process goes with it, and so everything.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// The server of a lab, which waits with its answers.
pub(crate) struct Server {
    go: Option<ChildStdin>,
    lines: Receiver<(Instant, String)>,
}

impl Server {
    fn line(&self) -> Option<(Instant, String)> {
        self.lines.recv_timeout(PATIENCE).ok()
    }

    /// Returns when a request has arrived on each of the ports (as often as it is named), and when each did.
    pub(crate) fn wait_for(&self, ports: &[u16]) -> HashMap<u16, Instant> {
        let (mut missing, mut arrived) = (ports.to_vec(), HashMap::new());
        while !missing.is_empty() {
            let (at, line) = self.line().unwrap_or_else(|| panic!("no request on {missing:?}"));
            let port: u16 = line.parse().expect("a port");
            if let Some(index) = missing.iter().position(|missing| *missing == port) {
                missing.swap_remove(index);
            }
            arrived.insert(port, at);
        }
        arrived
    }

    /// Lets it answer, from now on at once.
    pub(crate) fn release(&mut self) {
        let mut go = self.go.take().expect("released once");
        go.write_all(b"go\n").expect("the server runs");
        // Its standard input stays open: the end would be the same line.
        self.go = Some(go);
    }
}

/// Sends on every line that comes, and when.
pub(crate) fn send_lines(stream: impl Read + Send + 'static, sender: Sender<(Instant, String)>) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    thread::spawn(move || lines.all(|line| sender.send((Instant::now(), line)).is_ok()));
}

/// The Java client's class path; it is compiled once.
pub(crate) fn java_classes() -> &'static Path {
    static COMPILED: OnceLock<PathBuf> = OnceLock::new();
    COMPILED.get_or_init(|| {
        let folder = scratch("java");
        let source = root().join("tests/java/Client.java");
        let output = plain("javac").arg("-d").arg(&folder).arg(source).output().expect("javac");
        assert!(output.status.success(), "{}", text(&output).1);
        folder
    })
}

/// Quick to start, and no files left in /tmp.
pub(crate) fn java_arguments() -> Vec<String> {
    let options = "-XX:+IgnoreUnrecognizedVMOptions -XX:-UsePerfData -XX:TieredStopAtLevel=1 -Xshare:auto -Xmx96m -cp";
    let options = options.split(' ').map(str::to_owned);
    options.chain([java_classes().display().to_string(), "Client".to_owned()]).collect()
}

/// A program that has been started, with its output collected.
pub(crate) struct Running {
    output: Receiver<Output>,
    what: String,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Running {
        command.stdin(Stdio::null());
        Running::spawn(command).1
    }

    /// With something to say to it.
    pub(crate) fn start_with_input(mut command: Command) -> (ChildStdin, Running) {
        command.stdin(Stdio::piped());
        let (input, running) = Running::spawn(command);
        (input.expect("a pipe"), running)
    }

    fn spawn(mut command: Command) -> (Option<ChildStdin>, Running) {
        let what = command.get_args().map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("nsenter");
        let input = child.stdin.take();
        let (sender, output) = mpsc::channel();
        thread::spawn(move || child.wait_with_output().map(|output| sender.send(output)));
        (input, Running { output, what })
    }

    /// Its output and status, when it has ended by itself.
    pub(crate) fn finish(self) -> Output {
        self.finish_within(PATIENCE)
    }

    pub(crate) fn finish_within(self, patience: Duration) -> Output {
        self.output.recv_timeout(patience).unwrap_or_else(|_| panic!("still runs after {patience:?}: {}", self.what))
    }

    pub(crate) fn has_ended(&self) -> Option<Output> {
        self.output.try_recv().ok()
    }
}

impl Socket {
    fn parse(line: &str) -> Option<Socket> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let address = |at: usize| {
            let ip: IpAddr = words.get(at)?.parse().ok()?;
            Some(SocketAddr::new(ip.to_canonical(), words.get(at + 1)?.parse().ok()?))
        };
        let state = match *words.get(2)? {
            "1" => State::Established,
            "10" => State::Listening,
            _ => State::Other,
        };
        let options: Vec<i64> = words.get(7..)?.iter().filter_map(|word| word.parse().ok()).collect();
        Some(Socket {
            program: words.first()?.to_string(),
            pid: words.get(1)?.parse().ok()?,
            state,
            local: address(3)?,
            peer: address(5),
            options: options.try_into().ok()?,
        })
    }

    /// Connected to a port of this address.
    pub(crate) fn is_to(&self, ip: &str, port: u16) -> bool {
        self.peer.is_some_and(|peer| peer == address(ip, port))
    }

    /// Bound is not enough: who connects before `listen` is refused.
    pub(crate) fn listens_on(&self, port: u16) -> bool {
        self.state == State::Listening && self.local.port() == port
    }

    /// Accepted on this port.
    pub(crate) fn is_accepted_on(&self, port: u16) -> bool {
        self.state == State::Established && self.local.port() == port
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peer = self.peer.map_or_else(String::new, |peer| format!(" to {peer}"));
        write!(f, "{} ({}) {:?} {}{peer}: {:?}", self.program, self.pid, self.state, self.local, self.options)
    }
}

fn address(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address"), port)
}

/// The programs that each lab needs, and these.
pub(crate) fn needs<const N: usize>(more: [&'static str; N]) -> Vec<&'static str> {
    let set: HashSet<&str> = more.into_iter().chain(["namespaces", "ip", "nsenter", "python3"]).collect();
    let mut needs: Vec<&str> = set.into_iter().collect();
    needs.sort_unstable();
    needs
}
