//! `sockopt import`: `fixtures/import/NAME` is a file as its program has it, `NAME.toml` beside it what comes of it, `NAME.notes` what is
//! said. `UPDATE_EXPECTED=1` writes them; read the difference as the owner of the file would.
//!
//! Seen to fail: with port-level settings that keep what the host's rule says (port_levels, mesh), the mesh's keepalive over a rule's own
//! (mesh), everything accepted (destination_rules, socket_options), buffers read big-endian (socket_options), wildcards before exact
//! hosts (envoy_filters, envoy), HAProxy's milliseconds for seconds (haproxy.cfg), a TOS byte for a code point (web.socket), sysctls that
//! switch nothing on (sysctl.conf), msantos' milliseconds for seconds (msantos.env), a directive that is looked for in its own block alone
//! (nginx.conf), places of a text whose templates are blanks (template_places.yaml, which fuzzing found: the command ended by a panic).

use std::env;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use import::{Format, Outcome, Request, Source};
use libtest_mimic::Trial;
use policy::{Configuration, Process, compile};
use proptest::prelude::*;
use proptest::sample::select;

use crate::errors::one_line_each;
use crate::properties::for_all;
use crate::support::{plain, root, scratch, sockopt, test, text};

pub(crate) fn trials() -> Vec<Trial> {
    let cases = cases().into_iter().map(|case| {
        let name = case.file_name().unwrap_or_default().to_string_lossy().into_owned();
        test(format!("import::{name}"), move || check(&case))
    });
    let more = [
        test("import::the_result_of_anything_passes_check", the_result_of_anything_passes_check),
        test("import::the_command", the_command),
        test("import::what_cannot_be_read", what_cannot_be_read),
        test("import::standard_input_and_several_files", standard_input_and_several_files),
        test("import::who_has_the_last_word", who_has_the_last_word),
        test("import::drop_ins_go_with_their_unit", drop_ins_go_with_their_unit),
        test("import::every_kind_of_note_is_among_them", every_kind_of_note_is_among_them),
    ];
    cases.chain(more).collect()
}

fn folder() -> PathBuf {
    root().join("tests/fixtures/import")
}

/// Every file that is no outcome.
fn cases() -> Vec<PathBuf> {
    let files = fs::read_dir(folder()).expect("a folder of fixtures").map(|entry| entry.expect("an entry").path());
    let is_outcome = |file: &PathBuf| file.extension().is_some_and(|end| end == "toml" || end == "notes");
    let mut cases: Vec<PathBuf> = files.filter(|file| !is_outcome(file)).collect();
    cases.sort();
    assert!(!cases.is_empty());
    cases
}

fn source(case: &Path) -> Source {
    let name = case.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Source { name, text: fs::read_to_string(case).expect("a fixture in UTF-8") }
}

fn made(source: &Source, request: &Request) -> Outcome {
    let format = Format::of(source).unwrap_or_else(|| panic!("{}: of no kind", source.name));
    import::import(std::slice::from_ref(source), &[format], request)
}

/// `file:line:column: kind: message; help`.
fn notes(outcome: &Outcome, sources: &[Source]) -> String {
    let mut lines = String::new();
    for note in &outcome.notes {
        if let Some(place) = &note.place {
            let source = &sources[place.source];
            assert!(source.text.get(place.span.clone()).is_some(), "{note:?} is within a letter");
            let (line, column) = source.position(place.span.start);
            lines += &format!("{}:{line}:{column}: ", source.name);
        }
        lines += &format!("{}: {}", note.kind.name(), note.message);
        lines += &note.help.as_ref().map_or("\n".to_owned(), |help| format!("; {help}\n"));
    }
    if outcome.more > 0 {
        lines += &format!("{} more\n", outcome.more);
    }
    if lines.is_empty() { "nothing\n".to_owned() } else { lines }
}

/// The errors that `sockopt check` would report.
fn errors(toml: &str) -> String {
    let document = Some(Source { name: "imported.toml".into(), text: toml.to_owned() });
    let configuration = Configuration { document, variables: Vec::new() };
    let compiled = compile(&configuration, &Process::default());
    let found = one_line_each(compiled.rules.as_ref().err().into_iter().flatten(), &compiled.sources);
    if found == "no problems\n" { String::new() } else { found }
}

fn check(case: &Path) {
    let source = source(case);
    let outcome = made(&source, &Request::default());
    assert_eq!(errors(&outcome.toml), "", "{}", outcome.toml);
    let beside = |end: &str| PathBuf::from(format!("{}.{end}", case.display()));
    let said = notes(&outcome, std::slice::from_ref(&source));
    for (file, found) in [(beside("toml"), &outcome.toml), (beside("notes"), &said)] {
        if env::var_os("UPDATE_EXPECTED").is_some() {
            fs::write(&file, found).expect("the expectation can be written");
            continue;
        }
        let expected = fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(*found, expected, "{}", file.display());
    }
}

/// What may stand anywhere, and mostly must not.
const NASTY: [&str; 44] = [
    "",
    "0",
    "-1",
    "010",
    "99999999999999999999",
    "1e3",
    "null",
    "~",
    "\"",
    "'",
    "\\",
    "{{ .Values.x }}",
    "*a",
    "&a ",
    "<<: *a",
    "[",
    "{",
    "}",
    "]",
    ": ",
    "\n",
    "\n---\n",
    "\t",
    "\u{202e}",
    "\u{7f}",
    "\0",
    "ü",
    "10.0.0.1",
    "*.local",
    "a..b",
    "-",
    "\n- ",
    "#",
    "yes",
    "30ms",
    "1.5s",
    "7200h",
    "true",
    "SO_KEEPALIVE",
    "::1",
    "!x",
    "65536",
    "\r\n",
    "=",
];

/// Whatever becomes of a file in transit, what is printed passes `sockopt check`, and every place is in its text. Seen to fail: with
/// everything accepted, and with names that are not quoted.
fn the_result_of_anything_passes_check() {
    let sources: Vec<Source> = cases().iter().map(|case| source(case)).collect();
    let texts: Vec<usize> = (0..sources.len()).collect();
    let change = (any::<prop::sample::Index>(), 0_usize..12, select(NASTY.to_vec()));
    let cases = (select(texts), prop::collection::vec(change, 1..6), select(Format::ALL.to_vec()), any::<bool>());
    for_all(3_000, cases, |(chosen, changes, other, as_it_is)| {
        let mut source = sources[chosen].clone();
        for (at, removed, put) in changes {
            let mut from = at.index(source.text.len() + 1);
            let mut to = (from + removed).min(source.text.len());
            while !source.text.is_char_boundary(from) {
                from -= 1;
            }
            while !source.text.is_char_boundary(to) {
                to += 1;
            }
            source.text.replace_range(from..to, put);
        }
        let format = if as_it_is { Format::of(&sources[chosen]).unwrap_or(other) } else { other };
        let request = Request { namespace: (!as_it_is).then(|| "n s\"".to_owned()), enforce: None };
        let outcome = import::import(std::slice::from_ref(&source), &[format], &request);
        let wrong = errors(&outcome.toml);
        prop_assert!(wrong.is_empty(), "{wrong}\n{}\nof\n{}", outcome.toml, source.text);
        for note in &outcome.notes {
            let place = note.place.as_ref().expect("a place");
            prop_assert!(source.text.get(place.span.clone()).is_some(), "{note:?} of\n{}", source.text);
        }
        Ok(())
    });
}

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output =
        plain(sockopt()).current_dir(folder()).arg("import").args(arguments).output().expect("sockopt can be started");
    let (stdout, stderr) = text(&output);
    (output.status.code(), stdout, stderr)
}

/// Excerpts with carets, the codes, what `check` says of the incident's own configuration, and that `--fix` adds the two user timeouts
/// which it lacks, and nothing else. Seen to fail: with everything accepted; without `--fix`.
fn the_command() {
    let (code, stdout, stderr) = run(&["destination_rules.yaml"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(stdout, fs::read_to_string(folder().join("destination_rules.yaml.toml")).expect("the outcome"));
    let shown =
        "warning[out-of-range]: left out: connect_timeout = \"30ms\" is out of range\n  --> destination_rules.yaml:";
    assert!(stderr.contains(shown) && stderr.contains("^^^^"), "{stderr}");
    assert_eq!(run(&["--strict", "destination_rules.yaml"]).0, Some(1));
    assert_eq!(run(&["--strict", "incident.yaml"]).0, Some(0));
    let completed = run(&["--namespace", "shop", "destination_rules.yaml"]);
    assert!(completed.1.contains("to = [\"my-service.shop.svc.cluster.local\"]"), "{}", completed.1);
    // The incident's own: what check says of it, and writes into it.
    let file = scratch("import-incident").join("sockopt.toml");
    let imported = run(&["incident.yaml"]).1;
    fs::write(&file, &imported).expect("a file");
    let check = |fix: &[&str]| {
        let output = plain(sockopt()).arg("check").args(fix).arg(&file).output().expect("sockopt can be started");
        let (stdout, stderr) = text(&output);
        assert_eq!(output.status.code(), Some(0), "{stdout}{stderr}");
        stderr
    };
    let said = check(&[]);
    assert_eq!(said.matches("advice[data-unguarded]").count(), 2, "{said}");
    check(&["--fix"]);
    assert_eq!(check(&[]), "");
    let fixed = fs::read_to_string(&file).expect("the file");
    let without: String = fixed.split_inclusive('\n').filter(|line| *line != "user_timeout = \"auto\"\n").collect();
    assert_eq!((without.as_str(), fixed.len() - imported.len()), (imported.as_str(), 2 * 22), "{fixed}");
}

fn what_cannot_be_read() {
    let folder = scratch("import-unreadable");
    let write = |name: &str, bytes: &[u8]| {
        let file = folder.join(name);
        fs::write(&file, bytes).expect("a file");
        file.display().to_string()
    };
    for (file, said) in [
        (folder.join("nothing.yaml").display().to_string(), "cannot be read: No such file"),
        (folder.display().to_string(), "cannot be read: Is a directory"),
        (write("bytes.yaml", b"kind: \xff"), "is not text in UTF-8"),
        (write("novel.txt", b"It was a dark and stormy night."), "neither its name nor its content shows"),
    ] {
        let (code, stdout, stderr) = run(&[&file]);
        assert_eq!((code, stdout.as_str()), (Some(78), ""), "{file}");
        assert!(stderr.contains(said), "{file}: {stderr}");
    }
    // What is broken in a file that can be read is noted; the other documents are read.
    let (code, stdout, stderr) = run(&[&write("half.yaml", b"a: [\n---\nkind: Listener\naddress: {socket_address: {address: 0.0.0.0, port_value: 80}}\nsocket_options: [{level: 6, name: 1, int_value: 1}]\n")]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("nodelay = true") && stderr.contains("warning[unreadable]"), "{stdout}{stderr}");
}

/// Documents in several files know of each other.
fn standard_input_and_several_files() {
    let mesh =
        "apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nspec: {meshConfig: {tcpKeepalive: {time: 90s}}}\n";
    let mut child = plain(sockopt())
        .current_dir(folder())
        .args(["import", "-", "incident.yaml"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sockopt can be started");
    child.stdin.take().expect("a pipe").write_all(mesh.as_bytes()).expect("it reads");
    let (stdout, stderr) = text(&child.wait_with_output().expect("it ends"));
    assert!(stdout.starts_with("# Made by sockopt import of 2 files\n"), "{stdout}{stderr}");
    assert!(stdout.contains("# standard input:3: the mesh's tcpKeepalive\n[[rule]]\nname = \"mesh\"\nto = [\"*\"]\nkeepalive = { time = \"90s\" }\n"), "{stdout}{stderr}");
    assert!(stdout.contains("# incident.yaml:"), "{stdout}");
}

/// A drop-in that is given with its unit goes over it, in systemd's order; without its unit that is said. Seen to fail: with each file
/// by itself; with drop-ins in the order of the command line.
fn drop_ins_go_with_their_unit() {
    let folder = scratch("import-drop-ins");
    let write = |name: &str, text: &str| {
        let file = folder.join(name);
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        fs::write(&file, text).expect("a file");
        file.display().to_string()
    };
    let later = write("web.socket.d/20-more.conf", "[Socket]\nKeepAliveTimeSec=30\nListenStream=\nListenStream=8080\n");
    let unit = write("web.socket", "[Socket]\nListenStream=80\nKeepAliveTimeSec=60\n");
    let first = write("web.socket.d/10-on.conf", "[Socket]\nKeepAlive=yes\nKeepAliveTimeSec=90\n");
    let (code, stdout, stderr) = run(&["--strict", &later, &unit, &first]);
    assert_eq!(code, Some(0), "{stderr}");
    let rule = "[[rule]]\nname = \"web.socket\"\nlisten = [\":8080\"]\nkeepalive = { time = \"30s\" }\n";
    assert!(stdout.ends_with(rule) && stdout.matches("[[rule]]").count() == 1, "{stdout}");
    let (code, stdout, stderr) = run(&["--strict", &later, &first]);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    let (code, stdout, stderr) = run(&["--strict", &first]);
    assert!(code == Some(1) && !stdout.contains("[[rule]]"), "{stdout}{stderr}");
    let said = "left out: a drop-in without its unit";
    assert!(stderr.contains(said) && stderr.contains("import it together with web.socket"), "{stderr}");
}

fn who_has_the_last_word() {
    for (value, expected) in [("fill", "enforce = \"fill\""), ("true", "enforce = true"), ("false", "enforce = false")]
    {
        let (code, stdout, _) = run(&["--enforce", value, "incident.yaml"]);
        assert_eq!(code, Some(0));
        assert!(stdout.contains(&format!("[defaults]\n{expected}\n")), "{stdout}");
        assert_eq!(errors(&stdout), "");
    }
    assert!(run(&["incident.yaml"]).1.contains("--enforce fill"), "it is offered");
    assert_eq!(run(&["--enforce", "maybe", "incident.yaml"]).0, Some(2));
}

fn every_kind_of_note_is_among_them() {
    let said: String = cases()
        .iter()
        .map(|case| fs::read_to_string(format!("{}.notes", case.display())).unwrap_or_default())
        .collect();
    let is_missing = |kind: &&import::Kind| !said.contains(&format!(": {}: ", kind.name()));
    let missing: Vec<&str> = import::Kind::ALL.iter().filter(is_missing).map(|kind| kind.name()).collect();
    assert!(missing.is_empty(), "no fixture has a note of the kinds {missing:?}");
}
