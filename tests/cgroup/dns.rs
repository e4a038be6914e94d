//! Rules that name hosts, by the answers of a name server (`attach --dns`).

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use libtest_mimic::Trial;

use super::agent::status;
use super::{Group, in_kernel, run};
use crate::support::lab::{Lab, PATIENCE, Place, Running};
use crate::support::{go_program, plain, root, scratch, sockopt, text};

pub(super) fn trials() -> Vec<Trial> {
    let trial = |needs: &[&str], name: &str, run: fn()| {
        let needs: Vec<&str> = needs.iter().copied().chain(["namespaces", "python3", "mount"]).collect();
        in_kernel(&needs, &format!("cgroup::dns::{name}"), run)
    };
    vec![
        trial(&[], "three_thousand_look_ups", three_thousand_look_ups),
        trial(&[], "a_reload_keeps_what_is_known", a_reload_keeps_what_is_known),
        trial(&[], "which_name_counts", which_name_counts),
        trial(&["curl"], "curl_looks_up", curl_looks_up),
        trial(&["go"], "go_looks_up_by_itself", go_looks_up_by_itself),
        trial(&["node"], "node_looks_up_by_c_ares", node_looks_up_by_c_ares),
        trial(&[], "the_order_of_rules", the_order_of_rules),
        trial(&[], "sockets_that_were_there", sockets_that_were_there),
        trial(&[], "status_says_how_many", status_says_how_many),
        trial(&[], "detach_leaves_nothing", detach_leaves_nothing),
        in_kernel(&[], "cgroup::dns::without_it_names_are_refused", without_it_names_are_refused),
        trial(&["setpriv"], "few_capabilities_are_enough", few_capabilities_are_enough),
    ]
}

/// A lab with a name server, and what tells its programs of it.
struct Named {
    lab: Lab,
    server: Child,
}

impl Named {
    fn new(name: &str) -> Self {
        let lab = Lab::new();
        let folder = scratch(&format!("cgroup-dns-{name}"));
        let files = [
            ("resolv.conf", "nameserver 127.0.0.1\nsearch search.example\noptions timeout:20 attempts:1\n"),
            ("nsswitch.conf", "hosts: files dns\n"),
        ];
        for (file, content) in files {
            let path = folder.join(file);
            fs::write(&path, content).expect("a file");
            lab.shell(Place::Here, &format!("touch /etc/{file} && mount --bind '{}' /etc/{file}", path.display()));
        }
        let mut command = lab.command(Place::Here, &[], "python3");
        command.arg(root().join("tests/cgroup/nameserver.py")).stdout(Stdio::piped());
        let mut server = command.spawn().expect("nsenter");
        let mut ready = String::new();
        let _ = BufReader::new(server.stdout.take().expect("a pipe")).read_line(&mut ready);
        assert_eq!(ready, "ready\n", "no name server");
        Self { lab, server }
    }

    /// What a program in Python prints that runs in the group.
    fn python(&self, group: &Group, program: &str, arguments: &[&str]) -> String {
        let mut command = group.command(&self.lab, Place::Here, "python3");
        command.args(["-c", &format!("{LOOK_UP}{program}")]).args(arguments);
        finished(command)
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn finished(command: Command) -> String {
    let output = Running::start(command).finish_within(3 * PATIENCE);
    let (stdout, stderr) = text(&output);
    assert!(output.status.success(), "{stdout}{stderr}");
    stdout
}

/// Looks a name up and connects at once: TCP_USER_TIMEOUT then, in seconds. Nobody listens; options are set before.
const LOOK_UP: &str = "
import socket, sys
def connected(where, port=7000):
    s = socket.socket(where[0], socket.SOCK_STREAM)
    try: s.connect((where[4][0], port))
    except ConnectionRefusedError: pass
    time = s.getsockopt(6, 18)
    s.close()
    return time // 1000
def look_up(name, port=7000, family=0):
    return connected(socket.getaddrinfo(name, port, family, socket.SOCK_STREAM)[0], port)
def address(ip, port=7000):
    return connected((socket.AF_INET6 if ':' in ip else socket.AF_INET, 0, 0, '', (ip, 0)), port)
";

fn attach(group: &Group, configuration: &str) -> String {
    let output = group.try_attach(configuration, &["--dns"]);
    let (stdout, stderr) = text(&output);
    assert!(output.status.success(), "{stdout}{stderr}");
    format!("{stdout}{stderr}")
}

fn rule(to: &str, seconds: u32) -> String {
    format!("[[rule]]\nto = [{to}]\nuser_timeout = \"{seconds}s\"\n")
}

/// Each of an address of its own.
///
/// Seen to fail: with the program for answers not attached, all are missed.
fn three_thousand_look_ups() {
    let named = Named::new("many");
    let group = Group::new();
    attach(&group, &rule("\"*.db.example\"", 7));
    let program = "print(sum(look_up('n%d.db.example' % n) != 7 for n in range(3000)), 'missed')";
    assert_eq!(named.python(&group, program, &[]), "0 missed\n");
    assert_eq!(status(&group.0).expect("attached")["known_addresses"], 3000);
}

/// The configuration is replaced again and again while names are looked up: by one that has other rules before and other names. What
/// was looked up before the first counts after the last.
///
/// Seen to fail: with a new table of addresses at each.
fn a_reload_keeps_what_is_known() {
    let named = Named::new("reloads");
    let group = Group::new();
    let configurations = [
        rule("\"*.db.example\"", 7),
        rule("\"10.0.0.0/8\", \"a.example\", \"b.example\"", 9) + &rule("\"n*.db.example\"", 7) + &rule("\"*\"", 8),
    ];
    attach(&group, &configurations[0]);
    let program = "
import select
before = look_up('n1.db.example')
print(before, flush=True)
count = missed = 0
while not select.select([0], [], [], 0)[0]:
    count += 1
    missed += look_up('n%d.db.example' % (2 + count % 9000)) != 7
    missed += address('127.1.0.2') != 7
print(count > 100, missed, 'missed', address('127.1.0.2'))
";
    let mut command = group.command(&named.lab, Place::Here, "python3");
    command.args(["-c", &format!("{LOOK_UP}{program}")]);
    let (input, running) = Running::start_with_input(command);
    for turn in 1..=40 {
        attach(&group, &configurations[turn % 2]);
    }
    drop(input);
    let (stdout, stderr) = text(&running.finish());
    assert_eq!(stdout, "7\nTrue 0 missed 7\n", "{stderr}");
}

/// Capitals, aliases, suffixes, IPv6, search domains, several addresses, ports; of two names the one that was looked up last.
///
/// Seen to fail: with each name taken for that of the last rule, and nothing forgotten.
fn which_name_counts() {
    let named = Named::new("which");
    let group = Group::new();
    let said = attach(
        &group,
        &[
            rule("\"one.example\"", 11),
            rule("\"TWO.example\"", 12),
            rule("\"alias.example\"", 13),
            rule("\"*.suffix.example:7000-7001\"", 14),
            rule("\"v6.example\", \"mapped.example\"", 15),
            rule("\"full.search.example\"", 16),
            rule("\"several.example\"", 17),
            rule("\"single\"", 18),
        ]
        .concat(),
    );
    assert!(said.contains("learned from DNS answers over UDP port 53"), "{said}");
    assert!(said.contains("single: a search domain completes a name"), "{said}");
    let program = "
print(address('127.3.0.1'), look_up('one.example'), address('127.3.0.1'), look_up('two.example'), address('127.3.0.1'))
print(look_up('ONE.Example.'), look_up('Two.eXample'), look_up('other.net'), address('127.3.0.1'))
print(look_up('alias.example'), look_up('lb.other.net'))
print(look_up('a.b.suffix.example'), look_up('a.b.suffix.example', 7002), look_up('suffix.example'))
print(look_up('v6.example'), address('::1', 7009), look_up('mapped.example'), address('127.3.0.6'))
print(look_up('full'), look_up('several.example'), [address('127.3.1.%d' % n) for n in range(1, 10)])
print(look_up('single.'))
";
    assert_eq!(
        named.python(&group, program, &[]),
        "0 11 11 12 12\n11 12 0 0\n13 0\n14 0 0\n15 15 15 15\n16 17 [17, 17, 17, 17, 17, 17, 17, 17, 0]\n18\n"
    );
}

/// The first rule counts, by address or by name; listeners and other addresses are as without.
///
/// Seen to fail: with each name taken for that of the last rule.
fn the_order_of_rules() {
    let named = Named::new("order");
    let group = Group::new();
    let configuration = [
        "[defaults]\nuser_timeout = \"30s\"\n",
        &rule("\"127.1.0.1\"", 11),
        &rule("\"*.db.example:7000\"", 12),
        &rule("\"127.1.0.0/16\", \"n3.db.example\"", 13),
        &rule("\"*.example\"", 14),
    ]
    .concat();
    attach(&group, &configuration);
    let program = "
print([look_up('n%d.db.example' % n, port) for n in (0, 1, 3) for port in (7000, 7001)])
print(look_up('one.example'), address('127.9.9.9'), address('127.1.0.99'))
";
    assert_eq!(named.python(&group, program, &[]), "[11, 11, 12, 13, 12, 13]\n14 30 13\n");
}

/// What a client has of a connection by name: of the sockets to port 7000, once there are as many.
fn timeouts(named: &Named, program: &str) -> Vec<i64> {
    let is_it = |socket: &crate::support::lab::Socket| {
        socket.program == program && socket.peer.is_some_and(|peer| peer.port() == 7000)
    };
    named.lab.wait_for(1, is_it).iter().map(|socket| socket.options[4]).collect()
}

fn by_name(name: &str, program: &str, command: impl FnOnce(&Group, &Lab) -> Command) {
    let named = Named::new(name);
    let mut server = named.lab.serve(Place::Here, &[7000]);
    let group = Group::new();
    attach(&group, &rule("\"*.db.example:7000\"", 7));
    let running = Running::start(command(&group, &named.lab));
    assert_eq!(timeouts(&named, program), [7_000]);
    server.release();
    let _ = running.finish();
}

/// Seen to fail: with a rule for another name.
fn curl_looks_up() {
    by_name("curl", "curl", |group, lab| {
        let mut command = group.command(lab, Place::Here, "curl");
        command.args(["-sS", "--max-time", "60", "http://n7.db.example:7000/"]);
        command
    });
}

/// A static program with a resolver of its own.
///
/// Seen to fail: with a rule for another name.
fn go_looks_up_by_itself() {
    by_name("go", "client", |group, lab| {
        let mut command = group.command(lab, Place::Here, go_program("client"));
        command.args(["wait", "n8.db.example", "7000"]);
        command
    });
}

/// Not by the C library, so that the library of ours would not see it.
///
/// Seen to fail: with a rule for another name.
fn node_looks_up_by_c_ares() {
    const PROGRAM: &str = "
require('dns').resolve4('n9.db.example', (error, found) => {
    if (error) throw error;
    const s = require('net').connect(7000, found[0], () => s.write('GET / HTTP/1.1\\r\\n\\r\\n'));
    s.on('close', () => process.exit(0)); s.on('data', () => {});
});
";
    by_name("node", "node", |group, lab| {
        let mut command = group.command(lab, Place::Here, "node");
        command.args(["-e", PROGRAM]);
        command
    });
}

/// A connection that was opened by name is adopted by its name when the configuration is replaced.
///
/// Seen to fail: with it taken for one by address.
fn sockets_that_were_there() {
    let named = Named::new("adopted");
    let _server = named.lab.serve(Place::Here, &[7000]);
    let group = Group::new();
    let policy = |by_name, otherwise| rule("\"*.db.example\"", by_name) + &rule("\"127.0.0.0/8\"", otherwise);
    attach(&group, &policy(7, 8));
    let program = "
s = socket.create_connection(('n5.db.example', 7000)); t = socket.create_connection(('127.9.0.1', 7000))
print('connected', flush=True)
sys.stdin.read()
print(s.getsockopt(6, 18), t.getsockopt(6, 18))
";
    let mut command = group.command(&named.lab, Place::Here, "python3");
    command.args(["-c", &format!("{LOOK_UP}{program}")]);
    let (input, running) = Running::start_with_input(command);
    named.lab.wait_for(2, |socket| {
        socket.program.starts_with("python") && socket.peer.is_some_and(|peer| peer.port() == 7000)
    });
    let said = attach(&group, &policy(9, 10));
    assert!(said.contains("adopted 2 sockets"), "{said}");
    drop(input);
    assert_eq!(text(&running.finish()).0, "connected\n9000 10000\n");
}

/// Seen to fail: with the number of all that there is room for.
fn status_says_how_many() {
    let named = Named::new("status");
    let group = Group::new();
    attach(&group, &rule("\"*.db.example\"", 7));
    let shown = || text(&run(&["status"], &group.0)).0;
    assert!(shown().contains("host names: 0 addresses known from DNS answers\n"), "{}", shown());
    named.python(&group, "[look_up('n%d.db.example' % n) for n in (1, 2, 2)]; look_up('one.example')", &[]);
    assert!(shown().contains("host names: 2 addresses known") && shown().contains(", ingress"), "{}", shown());
    assert_eq!(status(&group.0).expect("attached")["known_addresses"], 2);
    // Without names the program is not there, and they are forgotten.
    group.attach("[defaults]\nuser_timeout = \"9s\"\n");
    assert!(!shown().contains("host names") && !shown().contains("ingress"), "{}", shown());
    let said = attach(&group, "[defaults]\nuser_timeout = \"9s\"\n");
    assert!(said.contains("--dns has no effect: no rule names a host"), "{said}");
    attach(&group, &rule("\"*.db.example\"", 7));
    assert_eq!(status(&group.0).expect("attached")["known_addresses"], 0);
}

fn detach_leaves_nothing() {
    let named = Named::new("detach");
    let group = Group::new();
    attach(&group, &rule("\"*.db.example\"", 7));
    let pins = status(&group.0).expect("attached")["pins"].as_str().expect("a path").to_owned();
    assert!(fs::exists(&pins).expect("a folder"));
    assert_eq!(named.python(&group, "print(look_up('n1.db.example'))", &[]), "7\n");
    group.detach();
    assert!(!fs::exists(&pins).expect("no folder"), "{pins}");
    assert_eq!(named.python(&group, "print(look_up('n1.db.example'))", &[]), "0\n");
}

/// With the rule named, and what would help.
///
/// Seen to fail: with the help of other refusals.
fn without_it_names_are_refused() {
    let group = Group::new();
    let configuration = "[[rule]]\nname = \"db\"\nto = [\"*.db.example\", \"10.0.0.1\"]\nuser_timeout = \"7s\"\n";
    let output = group.try_attach(configuration, &[]);
    let said = text(&output).1;
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("rule \"db\": the kernel does not know host names (*.db.example)"), "{said}");
    assert!(said.contains("--dns learns the addresses of hosts from DNS answers"), "{said}");
    let (stdout, said) = text(&group.try_attach(configuration, &["--partial"]));
    assert!(stdout.contains("attached to") && said.contains("left out: rule \"db\": the kernel"), "{stdout}{said}");
    let (stdout, said) = text(&group.try_attach(configuration, &["--dry-run", "--dns"]));
    assert!(stdout.contains("TCP_USER_TIMEOUT=7000") && !said.contains("does not know host names"), "{stdout}{said}");
    let output = plain(sockopt()).env("SOCKOPT_CONFIG_TOML", configuration).args(["check", "--for", "kernel"]).output();
    let said = text(&output.expect("sockopt")).1;
    assert!(said.contains("(*.db.example): use addresses, or attach --dns"), "{said}");
}

/// Neither CAP_SYS_ADMIN nor CAP_PERFMON.
///
/// Seen to fail: with what follows a byte found by an offset in a row: without CAP_PERFMON the verifier gives up (E2BIG).
fn few_capabilities_are_enough() {
    let named = Named::new("few");
    let group = Group::new();
    let file = scratch("cgroup-dns-few-configuration").join("sockopt.toml");
    fs::write(&file, rule("\"*.db.example\"", 7)).expect("a file");
    let mut command = plain("setpriv");
    command.args(["--bounding-set", "-perfmon,-sys_admin", "--inh-caps", "-perfmon,-sys_admin"]).arg(sockopt());
    command.args(["attach", "--dns", "--config"]).arg(&file).arg(&group.0);
    let output = command.output().expect("setpriv");
    let (stdout, stderr) = text(&output);
    assert!(output.status.success(), "{stdout}{stderr}");
    assert_eq!(named.python(&group, "print(look_up('n1.db.example'))", &[]), "7\n");
}
