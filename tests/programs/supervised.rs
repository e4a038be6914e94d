//! Programs under the supervisor: Go's, and static ones. Seen to fail: with esbuild and Caddy started by a dynamic program, into which
//! `sockopt run` loads the library (esbuild's listener and what it accepted had no options).

use std::fs;
use std::io::Write;

use super::scenes;
use super::{CURL, Entry, FIRST, LISTENER, Look, Played, Role, Scene, Stage, TO_FIRST, Way, one, outcome, visit};
use crate::support::lab::{Place::Here, Running, Socket, State};
use crate::support::{EASEPROBE, GRPC_GO, easeprobe, go_program};

pub(super) fn entries() -> Vec<Entry> {
    let entry = |name, program, version, needs: &[&'static str], does, scene| Entry {
        name,
        program,
        version,
        needs: needs.to_vec(),
        does,
        way: Way::Supervisor,
        scene,
    };
    let of_debian = |package: &str| -> &'static str { format!("dpkg-query -W {package}").leak() };
    vec![
        entry(
            "busybox",
            "BusyBox wget",
            "busybox",
            &["busybox"],
            "GET",
            visit("busybox wget -q -O - http://127.0.0.1:8001/busybox", "", &[TO_FIRST]),
        ),
        entry("docker", "docker", "docker --version", &["docker"], "waits for events", Box::new(docker)),
        entry("hey", "hey", of_debian("hey"), &["hey"], "a request", Box::new(hey)),
        entry("caddy", "Caddy", "caddy version", &["caddy", "curl"], "passes a request on", Box::new(caddy)),
        entry(
            "blackbox",
            "Prometheus blackbox exporter",
            "prometheus-blackbox-exporter --version",
            &["prometheus-blackbox-exporter", "curl"],
            "probes by HTTP",
            Box::new(blackbox),
        ),
        entry(
            "easeprobe",
            "EaseProbe",
            format!("{} -v", easeprobe().display()).leak(),
            &[EASEPROBE, "curl"],
            "probes by HTTP",
            Box::new(probed),
        ),
        entry(
            "node_exporter",
            "Prometheus node exporter",
            "prometheus-node-exporter --version",
            &["prometheus-node-exporter"],
            "answers a GET",
            of_http(&[
                "prometheus-node-exporter",
                "--web.listen-address=127.0.0.1:9000",
                "--collector.disable-defaults",
            ]),
        ),
        entry(
            "nats",
            "nats-server",
            "nats-server --version",
            &["nats-server"],
            "answers PING",
            Box::new(|stage| {
                let halves = ["CONNECT {\"verbose\":false}\r\n", "PING\r\n"];
                scenes::server(stage, &["nats-server", "-a", "127.0.0.1", "-p", "9000"], halves, false, "INFO")
            }),
        ),
        entry(
            "esbuild",
            "esbuild",
            "esbuild --version",
            &["esbuild"],
            "answers a GET",
            of_http(&["esbuild", "--servedir=/proc/sys", "--serve=127.0.0.1:9000"]),
        ),
        entry(
            "etcd",
            "etcd, etcdctl",
            "etcd --version",
            &["etcd", "etcdctl"],
            "a watch, and what it waits for",
            Box::new(etcd),
        ),
        entry(
            "grpc_go",
            "gRPC for Go",
            of_debian(GRPC_GO),
            &["go", GRPC_GO],
            "calls, server and client",
            Box::new(grpc),
        ),
    ]
}

fn of_http(command: &'static [&'static str]) -> Scene {
    let halves = ["GET /kernel/ostype HTTP/1.1\r\nHost: 127.0.0.1\r\n", "Connection: close\r\n\r\n"];
    Box::new(move |stage| scenes::server(stage, command, halves, false, "HTTP/1.1 "))
}

fn docker(stage: &Stage) -> Played {
    let mut server = stage.lab.serve(Here, &[8001]);
    let mut docker = stage.under("docker");
    docker.args(["-H", "tcp://127.0.0.1:8001", "events", "--format", "{{.Action}}"]);
    let docker = Running::start(docker);
    server.wait_for(&[8001]);
    let looks = scenes::to_server(&stage.lab.sockets(), 1);
    server.release();
    let said = outcome(&docker.finish());
    assert_eq!(said.1, ["start"], "{said:?}");
    Played { looks, said }
}

/// What it says of the times is left out.
fn hey(stage: &Stage) -> Played {
    let mut server = stage.lab.serve(Here, &[8001]);
    let mut hey = stage.under("hey");
    hey.args(["-t", "0", "-n", "1", "-c", "1", "http://127.0.0.1:8001/hey"]);
    let hey = Running::start(hey);
    server.wait_for(&[8001]);
    let looks = scenes::to_server(&stage.lab.sockets(), 1);
    server.release();
    let (status, mut lines, errors) = outcome(&hey.finish());
    lines.retain(|line| line.contains("responses"));
    assert_eq!(lines.len(), 1, "{lines:?}");
    Played { looks, said: (status, lines, errors) }
}

fn caddy(stage: &Stage) -> Played {
    let mut caddy = stage.under("caddy");
    // For what it writes there.
    caddy.env("HOME", &stage.folder).args(["reverse-proxy", "--from", ":9000", "--to", "127.0.0.1:8001"]);
    let caddy = Running::start(caddy);
    stage.listening(&caddy);
    asked(stage, "http://127.0.0.1:9000/caddy", "caddy", "hello from /caddy")
}

fn blackbox(stage: &Stage) -> Played {
    let configuration =
        stage.file("blackbox.yml", "modules:\n  get:\n    prober: http\n    http:\n      preferred_ip_protocol: ip4\n");
    let mut exporter = stage.under("prometheus-blackbox-exporter");
    exporter.args(["--web.listen-address=127.0.0.1:9000", &format!("--config.file={configuration}")]);
    let exporter = Running::start(exporter);
    stage.listening(&exporter);
    let url = "http://127.0.0.1:9000/probe?module=get&target=http://127.0.0.1:8001/blackbox";
    asked(stage, url, "prometheus-blackbox-exporter", "probe_success 1")
}

/// A probe, and what EaseProbe counts of it.
fn probed(stage: &Stage) -> Played {
    let mut server = stage.lab.serve(Here, &[8001]);
    let configuration = format!(
        "http: [ {{ name: one, url: 'http://127.0.0.1:8001/easeprobe' }} ]\n\
         notify: {{ log: [ {{ name: log, file: /dev/null }} ] }}\n\
         settings: {{ pid: {}, http: {{ ip: 127.0.0.1, port: 9000 }}, sla: {{ data: '-' }} }}\n",
        stage.folder.join("pid").display()
    );
    let mut prober = stage.under(easeprobe());
    prober.arg("-f").arg(stage.file("easeprobe.yaml", &configuration));
    let prober = Running::start(prober);
    server.wait_for(&[8001]);
    stage.listening(&prober);
    let sockets = stage.lab.sockets();
    let listening = |socket: &Socket| socket.program == "easeprobe" && socket.state == State::Listening;
    let looks = scenes::to_server(&sockets, 1).into_iter().chain([Look::new(
        Role::Listener,
        one(&sockets, listening),
        LISTENER,
    )]);
    let looks = looks.collect();
    server.release();
    // Its own figures, once it counts the answer.
    let figures =
        "curl -q -s --noproxy '*' http://127.0.0.1:9000/metrics | grep '^EaseProbe_http_[st].* [0-9]*$' | sort";
    let pid = stage.folder.join("pid").display().to_string();
    let script =
        format!("until {figures} | grep -q 'status{{.* 1$'; do sleep 0.1; done; {figures}; kill -TERM $(cat {pid})");
    let mut said: Vec<String> = stage.lab.shell(Here, &script).lines().map(str::to_owned).collect();
    let (status, lines, _) = outcome(&prober.finish());
    // Without the time at the beginning of each line.
    let lines = lines.iter().filter_map(|line| Some(line.split_once("level=")?.1.to_owned()));
    said.extend(lines.filter(|line| line.contains("Exit") || line.contains("error")));
    assert_eq!(said.len(), 5, "{said:?}");
    Played { looks, said: (status, said, String::new()) }
}

/// One request, for which the program asks the server on port 8001.
fn asked(stage: &Stage, url: &str, program: &str, wanted: &str) -> Played {
    let mut server = stage.lab.serve(Here, &[8001]);
    let mut curl = stage.plain("curl");
    curl.args(CURL.split(' ').skip(1)).arg(url);
    let curl = Running::start(curl);
    server.wait_for(&[8001]);
    let sockets = stage.lab.sockets();
    let mut looks = stage.served(&sockets);
    let upstream = |socket: &Socket| socket.program == program && socket.is_to("127.0.0.1", 8001);
    looks.push(Look::new(Role::Upstream, one(&sockets, upstream), FIRST));
    server.release();
    let (status, mut lines, errors) = outcome(&curl.finish());
    lines.retain(|line| line == wanted);
    assert_eq!(lines.len(), 1, "{wanted}");
    Played { looks, said: (status, lines, errors) }
}

/// Both ends of etcd, which are Go's gRPC.
fn etcd(stage: &Stage) -> Played {
    let data = stage.folder.join("etcd");
    let _ = fs::remove_dir_all(&data);
    let mut etcd = stage.under("etcd");
    etcd.args(["--listen-client-urls=http://127.0.0.1:9000", "--advertise-client-urls=http://127.0.0.1:9000"]);
    etcd.args(["--listen-peer-urls=http://127.0.0.1:9002", "--log-level=error", "--unsafe-no-fsync"]);
    let etcd = Running::start({
        etcd.arg("--data-dir").arg(&data);
        etcd
    });
    stage.listening(&etcd);
    let mut watch = stage.under("etcdctl");
    watch.args(["--endpoints=http://127.0.0.1:9000", "watch", "key"]);
    let watch = Running::start(watch);
    let of_watch = |socket: &Socket| socket.program == "etcdctl" && socket.is_to("127.0.0.1", 9000);
    let found = stage.lab.wait_for(1, |socket| of_watch(socket) && socket.state == State::Established);
    // Its own clients are on the same port.
    let accepted = |socket: &Socket| socket.is_accepted_on(9000) && socket.peer == Some(found[0].local);
    stage.lab.wait_for(1, accepted);
    // What it sets on a connection, it has set once it answers.
    stage.lab.shell(Here, "etcdctl --endpoints=http://127.0.0.1:9000 get key");
    let sockets = stage.lab.sockets();
    let listening = |socket: &Socket| socket.listens_on(9000);
    let looks = vec![
        Look::new(Role::Listener, one(&sockets, listening), LISTENER),
        Look::new(Role::Accepted, one(&sockets, accepted), LISTENER),
        Look::new(Role::Client, one(&sockets, of_watch), FIRST),
    ];
    let said = stage.lab.shell(
        Here,
        "for i in 1 2 3; do etcdctl --endpoints=http://127.0.0.1:9000 put key value; done; etcdctl --endpoints=http://127.0.0.1:9000 get key",
    );
    stage.lab.shell(Here, &format!("kill -KILL {}", found[0].pid));
    let (_, lines, _) = outcome(&watch.finish());
    assert!(lines.contains(&"value".to_owned()), "{lines:?}");
    Played { looks, said: (Some(0), said.lines().map(str::to_owned).collect(), String::new()) }
}

/// With a keepalive of HTTP/2 in the client, which sets a user timeout.
fn grpc(stage: &Stage) -> Played {
    let program = go_program("grpc");
    let mut server = stage.under(&program);
    server.args(["serve", "127.0.0.1", "9000"]);
    let server = Running::start(server);
    stage.listening(&server);
    let mut client = stage.under(&program);
    client.args(["ask", "127.0.0.1", "9000", "20s"]);
    let (mut input, client) = Running::start_with_input(client);
    stage.lab.wait_for(1, |socket| socket.is_accepted_on(9000));
    stage.lab.wait_for(1, |socket| socket.is_to("127.0.0.1", 9000) && socket.options[4] != 0);
    let looks = stage.both_ends();
    input.write_all(b"go\n").expect("the client runs");
    drop(input);
    let said = outcome(&client.finish());
    assert_eq!(said.1.len(), 2, "{said:?}");
    Played { looks, said }
}
