//! Programs that need more than a request to the lab's server: servers, proxies, sessions that stay.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use super::{FIRST, LISTENER, Look, Played, Role, Stage, one, outcome};
use crate::support::lab::{PATIENCE, Place::Here, Running, Socket};
use crate::support::{find, root, text};

fn is_listening(socket: &Socket) -> bool {
    socket.listens_on(9000)
}

impl Stage<'_> {
    /// Waits for a listener on port 9000.
    pub(super) fn listening(&self, server: &Running) {
        self.listening_on(server, 9000);
    }

    fn listening_on(&self, server: &Running, port: u16) {
        let until = Instant::now() + PATIENCE;
        while !self.lab.sockets().iter().any(|socket| socket.listens_on(port)) {
            let ended = server.has_ended().map(|output| text(&output));
            assert!(ended.is_none() && Instant::now() < until, "it does not start: {ended:?}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits for a condition of the shell.
    fn until(&self, condition: &str) {
        self.until_within(PATIENCE, condition);
    }

    fn until_within(&self, patience: Duration, condition: &str) {
        let wait = format!("timeout {} sh -c 'until {condition}; do sleep 0.05; done'", patience.as_secs());
        self.lab.shell(Here, &wait);
    }

    /// The two sides of a server on port 9000.
    pub(super) fn served(&self, sockets: &[Socket]) -> Vec<Look> {
        vec![
            Look::new(Role::Listener, one(sockets, is_listening), LISTENER),
            Look::new(Role::Accepted, one(sockets, |socket| socket.is_accepted_on(9000)), LISTENER),
        ]
    }

    /// And a client of it, under the same rules.
    pub(super) fn both_ends(&self) -> Vec<Look> {
        let sockets = self.lab.sockets();
        let mut looks = self.served(&sockets);
        let client = one(&sockets, |socket| socket.is_to("127.0.0.1", 9000));
        looks.push(Look::new(Role::Client, client, FIRST));
        looks
    }

    /// A proxy on port 9000 that passes on to port 8001 has one request under way: the looks at both its sides, and
    /// where the process that serves it has its root.
    fn proxied(&self, program: &str) -> (Played, String) {
        let mut server = self.lab.serve(Here, &[8001]);
        let mut curl = self.plain("curl");
        curl.args(["-q", "-sS", "--noproxy", "*", "http://127.0.0.1:9000/upstream"]);
        let curl = Running::start(curl);
        server.wait_for(&[8001]);
        let sockets = self.lab.sockets();
        let mut looks = self.served(&sockets);
        let upstream = |socket: &Socket| socket.program == program && socket.is_to("127.0.0.1", 8001);
        looks.push(Look::new(Role::Upstream, one(&sockets, upstream), FIRST));
        let worker = sockets.iter().find(|socket| upstream(socket)).expect("it was just there").pid;
        let status = self.lab.shell(Here, &format!("cat /proc/{worker}/status"));
        let uid =
            status.lines().find_map(|line| line.strip_prefix("Uid:")).and_then(|ids| ids.split_whitespace().next());
        assert!(uid.is_some_and(|uid| uid != "0" && uid != "65534"), "not another user: {status}");
        let root = self.lab.shell(Here, &format!("readlink /proc/{worker}/root"));
        server.release();
        let said = outcome(&curl.finish());
        assert_eq!(said.1, ["hello from /upstream"]);
        (Played { looks, said }, root.trim().to_owned())
    }

    /// Users for programs that look theirs up, and a folder that all of them can reach.
    fn users(&self) {
        let passwd = "root:*:0:0::/run/home:/bin/sh\nsshd:*:101:65534::/run/sshd:/bin/false\n\
            somebody:*:1000:1000::/run/home:/bin/sh\n";
        let (passwd, empty) = (self.file("passwd", passwd), self.file("empty", ""));
        self.lab.shell(
            Here,
            &format!(
                "mount --bind {passwd} /etc/passwd
                [ ! -e /etc/shadow ] || mount --bind {empty} /etc/shadow
                mount -t tmpfs -o mode=755 tmpfs /run
                mkdir /run/home /run/sshd"
            ),
        );
    }
}

/// Starts nginx on port 9000 with these directives. Without more users than one, root's nginx would want to become
/// another user that there is not: then it is started as such a one.
pub(super) fn nginx(stage: &Stage, directives: &str, tracer: Option<&[&str]>) -> Running {
    let temporary: String =
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|name| format!("{name}_temp_path temp;\n")).concat();
    let configuration = format!(
        "daemon off; pid pid; error_log error.log; {directives} events {{}}
        http {{ access_log off; {temporary} server {{
            listen 127.0.0.1:9000 so_keepalive=300s:100s:5; listen [::1]:9000 so_keepalive=300s:100s:5;
            location / {{ return 200 'here'; }}
            location /upstream {{ proxy_socket_keepalive on; proxy_pass http://127.0.0.1:8001; }}
        }} }}"
    );
    let configuration = stage.file("nginx.conf", &configuration);
    let mut command = stage.under("unshare");
    if let Some(tracer) = tracer {
        command.args(["--user", "--map-user=1000", "--map-group=1000"]).args(tracer);
    }
    command.arg("nginx").args(["-e", "error.log", "-c", &configuration, "-p"]).arg(&stage.folder);
    let nginx = Running::start(command);
    stage.listening(&nginx);
    nginx
}

/// Workers that have become another user.
pub(super) fn nginx_both_ways(stage: &Stage) -> Played {
    let _nginx = nginx(stage, "user daemon daemon; worker_processes 2;", None);
    stage.proxied("nginx").0
}

/// A worker that has become another user, in an empty chroot; with keepalive and user timeout of its own.
pub(super) fn haproxy_both_ways(stage: &Stage) -> Played {
    let empty = stage.folder.join("empty");
    fs::create_dir_all(&empty).expect("a folder");
    let empty = empty.display().to_string();
    let configuration = format!(
        "global\n chroot {empty}\n uid 1000\n gid 1000\n
        defaults\n mode http\n timeout connect 60s\n timeout client 60s\n timeout server 60s
        option clitcpka\n clitcpka-idle 300s\n clitcpka-intvl 100s\n clitcpka-cnt 5
        option srvtcpka\n srvtcpka-idle 300s\n srvtcpka-intvl 100s\n srvtcpka-cnt 5
        frontend in\n bind 127.0.0.1:9000 tcp-ut 77s\n default_backend out
        backend out\n server one 127.0.0.1:8001 tcp-ut 77s\n"
    );
    let mut haproxy = stage.under("haproxy");
    haproxy.args(["-W", "-f", &stage.file("haproxy.cfg", &configuration)]);
    let haproxy = Running::start(haproxy);
    stage.listening(&haproxy);
    let (played, root) = stage.proxied("haproxy");
    assert_eq!(root, empty, "not in its chroot");
    played
}

/// Connects, sends, waits for a line on its own standard input, sends the rest and shows what came.
const CLIENT: &str = r#"
import socket, sys
first, rest, answered = sys.argv[1:]
s = socket.create_connection(("127.0.0.1", 9000))
s.send(first.encode())
if answered == "true":
    s.recv(99)
print("waiting", flush=True)
sys.stdin.readline()
s.send(rest.encode())
print(s.recv(9999).decode())
"#;

/// A server on port 9000, which answers in two halves or to the second.
pub(super) fn server(stage: &Stage, command: &[&str], halves: [&str; 2], answered: bool, wanted: &str) -> Played {
    let mut server = stage.under(command[0]);
    server.args(&command[1..]);
    // Some end with their standard input.
    let (_input, server) = Running::start_with_input(server);
    stage.listening(&server);
    let mut client = stage.plain("python3");
    client.args(["-c", CLIENT, halves[0], halves[1], &answered.to_string()]);
    let (mut input, client) = Running::start_with_input(client);
    stage.lab.wait_for(1, |socket| socket.is_accepted_on(9000));
    let looks = stage.served(&stage.lab.sockets());
    input.write_all(b"go\n").expect("the client runs");
    let (status, lines, errors) = outcome(&client.finish());
    assert!(lines.iter().any(|line| line.contains(wanted)), "{lines:?}");
    // What else it says has the time in it.
    Played { looks, said: (status, vec![], errors) }
}

/// redis-cli switches a keepalive of its own on.
pub(super) fn redis_cli(stage: &Stage) -> Played {
    waits_for_an_element(stage, "redis-cli", &["-p", "8001", "BLPOP", "list", "0"])
}

/// phpredis switches keepalive off after it has connected.
pub(super) fn php_redis(stage: &Stage) -> Played {
    const SCRIPT: &str = r#"
        $redis = new Redis;
        $redis->connect("127.0.0.1", 8001);
        $redis->setOption(Redis::OPT_TCP_KEEPALIVE, 0);
        $redis->setOption(Redis::OPT_READ_TIMEOUT, -1);
        [$list, $element] = $redis->blPop("list", 0);
        echo "$element\n$list\n";"#;
    waits_for_an_element(stage, "php", &["-n", "-d", "extension=igbinary", "-d", "extension=redis", "-r", SCRIPT])
}

/// A client of Redis that waits for an element, which a second one brings.
fn waits_for_an_element(stage: &Stage, program: &str, arguments: &[&str]) -> Played {
    let mut server = stage.plain("redis-server");
    server.args(["--port", "8001", "--bind", "127.0.0.1", "--save", "", "--dir", "/"]);
    let _server = Running::start(server);
    stage.lab.wait_for(1, |socket| socket.listens_on(8001));
    let mut client = stage.under(program);
    client.args(arguments);
    let client = Running::start(client);
    stage.until("redis-cli -p 8001 INFO clients | grep -q ^blocked_clients:1");
    let is_client = |socket: &Socket| socket.program.starts_with(program) && socket.is_to("127.0.0.1", 8001);
    let looks = vec![Look::new(Role::Client, one(&stage.lab.sockets(), is_client), FIRST)];
    stage.lab.shell(Here, "redis-cli -p 8001 LPUSH list element");
    let said = outcome(&client.finish());
    assert_eq!(said.1, ["element", "list"]);
    Played { looks, said }
}

/// PostgreSQL's server in a folder; it refuses to be root.
struct Database {
    server: Running,
    data: String,
}

impl Database {
    fn start(stage: &Stage, is_covered: bool, port: u16) -> Database {
        stage.users();
        let programs = find("postgres").expect("it was found before").with_file_name("");
        let program = |name: &str| programs.join(name).display().to_string();
        let data = stage.folder.join("data").display().to_string();
        // Users of its own, and shared memory, which goes with it.
        let somebody = ["--user", "--ipc", "--map-user=1000", "--map-group=1000"];
        if fs::metadata(&data).is_err() {
            let mut initdb = stage.plain("unshare");
            initdb.args(somebody).arg(program("initdb"));
            initdb.args(["-D", &data, "-A", "trust", "-U", "somebody", "-E", "UTF8", "--locale=C", "--no-sync"]);
            let output = Running::start(initdb).finish_within(PATIENCE * 3);
            assert!(output.status.success(), "{:?}", text(&output));
        }
        let mut server = if is_covered { stage.under("unshare") } else { stage.plain("unshare") };
        server.args(somebody).arg(program("postgres")).args(["-D", &data, "-p", &port.to_string()]);
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "dynamic_shared_memory_type=mmap",
            "fsync=off",
            "tcp_keepalives_idle=300",
            "tcp_keepalives_interval=100",
            "tcp_keepalives_count=5",
            "tcp_user_timeout=77000",
        ] {
            server.args(["-c", setting]);
        }
        let server = Running::start(server);
        stage.listening_on(&server, port);
        stage.until(&format!(
            "psql -X -h 127.0.0.1 -p {port} -U somebody -d postgres -c \"select 1\" >/run/home/first 2>&1"
        ));
        Database { server, data }
    }

    /// So that the next server finds its files free.
    fn stop(self, stage: &Stage) {
        stage.lab.shell(Here, &format!("kill -INT $(head -n 1 {}/postmaster.pid)", self.data));
        assert_eq!(self.server.finish().status.code(), Some(0));
    }
}

/// What a client of it sets by itself.
const OF_CLIENT: &str = "dbname=postgres user=somebody keepalives_idle=200 keepalives_interval=50 keepalives_count=4 \
    tcp_user_timeout=88000";

/// Server and psql, both with keepalive and user timeout in their own settings.
pub(super) fn postgresql(stage: &Stage) -> Played {
    let database = Database::start(stage, true, 9000);
    let mut psql = stage.under("psql");
    psql.args(["-X", "-A", "-t", &format!("host=127.0.0.1 port=9000 {OF_CLIENT}")]);
    let (mut input, psql) = Running::start_with_input(psql);
    input.write_all(b"select 1 + 1;\n\\! touch /run/home/ready\n").expect("psql runs");
    stage.until("[ -e /run/home/ready ]");
    let looks = stage.both_ends();
    input.write_all(b"select sum(i) from generate_series(1, 100000) as i;\n").expect("psql runs");
    drop(input);
    let said = outcome(&psql.finish());
    assert_eq!(said.1, ["2", "5000050000"], "{said:?}");
    database.stop(stage);
    Played { looks, said }
}

/// PHP's extension, whose libpq connects.
pub(super) fn php_pgsql(stage: &Stage) -> Played {
    let database = Database::start(stage, false, 8001);
    let script = format!(
        r#"$connection = pg_connect("host=127.0.0.1 port=8001 {OF_CLIENT}");
        echo pg_fetch_result(pg_query($connection, "select 1 + 1"), 0, 0), "\n";
        touch("/run/home/ready");
        fgets(STDIN);
        echo pg_fetch_result(pg_query($connection, "select sum(i) from generate_series(1, 100000) as i"), 0, 0), "\n";"#
    );
    let mut php = stage.under("php");
    php.args(["-n", "-d", "extension=pgsql", "-r", &script]);
    let (mut input, php) = Running::start_with_input(php);
    stage.until("[ -e /run/home/ready ]");
    let is_client = |socket: &Socket| socket.program.starts_with("php") && socket.is_to("127.0.0.1", 8001);
    let looks = vec![Look::new(Role::Client, one(&stage.lab.sockets(), is_client), FIRST)];
    input.write_all(b"go\n").expect("PHP runs");
    let said = outcome(&php.finish());
    assert_eq!(said.1, ["2", "5000050000"], "{said:?}");
    database.stop(stage);
    Played { looks, said }
}

/// sshd, which becomes the user who logs in, and ssh; both switch keepalive on.
pub(super) fn ssh(stage: &Stage) -> Played {
    stage.users();
    let configuration = "ListenAddress 127.0.0.1\nPort 9000\nHostKey /run/home/host\nPidFile none\nUsePAM no\n\
        PasswordAuthentication no\nAuthorizedKeysFile /run/home/key.pub\nUseDNS no\nLoginGraceTime 0\n";
    let configuration = stage.file("sshd_config", configuration);
    stage.lab.shell(
        Here,
        "ssh-keygen -q -t ed25519 -N '' -f /run/home/host
        ssh-keygen -q -t ed25519 -N '' -f /run/home/key
        mkdir /run/home/writable && chown 1000:1000 /run/home/writable",
    );
    let mut sshd = stage.under(find("sshd").expect("it was found before"));
    sshd.args(["-D", "-e", "-f", &configuration]);
    let sshd = Running::start(sshd);
    stage.listening(&sshd);
    let mut ssh = stage.under("ssh");
    ssh.args(["-F", "none", "-p", "9000", "-i", "/run/home/key", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR"]);
    ssh.args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "somebody@127.0.0.1"]);
    ssh.arg("id -u; touch /run/home/writable/ready; cat; exit 3");
    let (mut input, ssh) = Running::start_with_input(ssh);
    stage.until("[ -e /run/home/writable/ready ]");
    let looks = stage.both_ends();
    input.write_all(b"typed\n").expect("ssh runs");
    drop(input);
    let said = outcome(&ssh.finish());
    assert_eq!((said.0, &*said.1), (Some(3), &["1000".to_owned(), "typed".to_owned()][..]), "{said:?}");
    Played { looks, said }
}

const GRPC_SERVER: &str = r#"
import grpc
from concurrent.futures import ThreadPoolExecutor
class Reverse(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda request, context: request[::-1])
server = grpc.server(ThreadPoolExecutor(2), handlers=[Reverse()])
server.add_insecure_port("127.0.0.1:9000")
server.start()
server.wait_for_termination()
"#;

/// With keepalive (of HTTP/2) switched on it sets a user timeout of the same length as the wait for its answer.
const GRPC_CLIENT: &str = r#"
import grpc, sys
options = [("grpc.enable_http_proxy", 0), ("grpc.keepalive_time_ms", 300000), ("grpc.keepalive_timeout_ms", 77000)]
reverse = grpc.insecure_channel("127.0.0.1:9000", options).unary_unary("/test/reverse")
print(reverse(b"olleh", timeout=30))
open(sys.argv[1], "w").close()
sys.stdin.readline()
print(reverse(b"niaga", timeout=30))
"#;

/// Both ends of gRPC.
pub(super) fn grpc(stage: &Stage) -> Played {
    let mut server = stage.under("python3");
    server.args(["-c", GRPC_SERVER]);
    let server = Running::start(server);
    stage.listening(&server);
    let ready = stage.folder.join("ready").display().to_string();
    let _ = fs::remove_file(&ready);
    let mut client = stage.under("python3");
    client.args(["-c", GRPC_CLIENT, &ready]);
    let (mut input, client) = Running::start_with_input(client);
    stage.until(&format!("[ -e {ready} ]"));
    let looks = stage.both_ends();
    input.write_all(b"go\n").expect("the client runs");
    let said = outcome(&client.finish());
    assert_eq!(said.1, ["b'again'", "b'hello'"], "{said:?}");
    Played { looks, said }
}

/// ab makes its first request alone, which is held until its socket was looked at.
pub(super) fn ab(stage: &Stage) -> Played {
    let mut server = stage.lab.serve(Here, &[8001]);
    let mut ab = stage.under("ab");
    ab.args(["-n", "4", "-c", "4", "-s", "60", "http://127.0.0.1:8001/ab"]);
    let ab = Running::start(ab);
    server.wait_for(&[8001]);
    let looks = to_server(&stage.lab.sockets(), 1);
    server.release();
    let (status, mut lines, errors) = outcome(&ab.finish());
    // The rest is times.
    lines.retain(|line| ["Complete", "Failed", "Document"].iter().any(|word| line.starts_with(word)));
    let words = |line: &String| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<String> = lines.iter().map(words).collect();
    assert!(lines.contains(&"Complete requests: 4".to_owned()), "{lines:?}");
    Played { looks, said: (status, lines, errors) }
}

/// wrk keeps its connections busy until it is interrupted.
pub(super) fn wrk(stage: &Stage) -> Played {
    let mut server = stage.lab.serve(Here, &[8001]);
    let mut wrk = stage.under("wrk");
    wrk.args(["-t", "2", "-c", "4", "-d", "600", "--timeout", "60", "http://127.0.0.1:8001/wrk"]);
    let wrk = Running::start(wrk);
    server.wait_for(&[8001; 4]);
    let sockets = stage.lab.sockets();
    let looks = to_server(&sockets, 4);
    let pid = sockets.iter().find(|socket| socket.program == "wrk").expect("it was just there").pid;
    server.release();
    server.wait_for(&[8001; 40]);
    stage.lab.shell(Here, &format!("kill -INT {pid}"));
    let (status, lines, errors) = outcome(&wrk.finish());
    let has = |word: &str| lines.iter().any(|line| line.contains(word));
    assert!(has("Requests/sec") && !has("Non-2xx") && !has("Socket errors"), "{lines:?}");
    Played { looks, said: (status, vec![], errors) }
}

pub(super) fn to_server(sockets: &[Socket], count: usize) -> Vec<Look> {
    let is_it = |socket: &Socket| socket.is_to("127.0.0.1", 8001);
    let locals: Vec<SocketAddr> = sockets.iter().filter(|socket| is_it(socket)).map(|socket| socket.local).collect();
    assert_eq!(locals.len(), count, "{sockets:?}");
    vec![Look::new(Role::Client, one(sockets, is_it), FIRST)]
}

/// JMeter's default client with the plan of examples/jmeter, and with the class without which Debian's reads no plan.
/// Its threads end with the sample under way when its second is over. Not by run.sh, which ends it after a minute.
pub(super) fn jmeter(stage: &Stage) -> Played {
    let example = root().join("examples/jmeter");
    let mut server = stage.lab.serve(Here, &[8001]);
    let classes = stage.folder.join("classes");
    if fs::metadata("/usr/share/java/xstream.jar").is_ok() && fs::metadata(&classes).is_err() {
        let mut javac = stage.plain("javac");
        javac.args(["-cp", "/usr/share/java/xstream.jar", "-d"]).arg(&classes);
        javac.arg(example.join("debian-2.13/com/thoughtworks/xstream/security/NoTypePermission.java"));
        let output = Running::start(javac).finish();
        assert!(output.status.success(), "{:?}", text(&output));
    }
    let results = stage.folder.join(if stage.environment.is_empty() { "without.csv" } else { "with.csv" });
    let mut jmeter = stage.under("env");
    jmeter.arg(format!("JAVA_CLASSPATH={}", classes.display())).args(["jmeter", "-n", "-t"]);
    jmeter.arg(example.join("plan.jmx")).arg("-l").arg(&results).arg("-j").arg(stage.folder.join("log"));
    jmeter.args(["-Jhost=127.0.0.1", "-Jport=8001", "-Jthreads=3", "-Jduration=1"]);
    let jmeter = Running::start(jmeter);
    // It is slow to start.
    stage.until_within(PATIENCE * 4, "[ $(ss -Htn state established dport = :8001 | wc -l) -ge 3 ]");
    server.wait_for(&[8001; 3]);
    let looks = to_server(&stage.lab.sockets(), 3);
    server.release();
    let (status, _, errors) = outcome(&jmeter.finish_within(PATIENCE * 2));
    let samples = fs::read_to_string(&results).expect("results");
    assert!(samples.lines().filter(|line| line.contains(",200,")).count() >= 3, "{samples}");
    let failed: Vec<String> = samples.lines().filter(|line| line.contains(",false,")).map(str::to_owned).collect();
    Played { looks, said: (status, failed, errors) }
}
