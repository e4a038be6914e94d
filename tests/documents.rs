//! What the command says about itself and the configuration: help, completions, manual pages, the schema.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use libtest_mimic::Trial;
use policy::{Configuration, Process, Source, compile};

use crate::command::{VALUES, outcome, write};
use crate::support::{find, plain, root, scratch, sockopt, test, test_with, text};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        test("documents::help::short_fits_a_screen", short_help_fits_a_screen),
        test("documents::help::long_has_everything", long_help_has_everything),
        test("documents::completions::name_every_option", completions_name_every_option),
        test_with(&["bash"], "documents::completions::bash", bash),
        test_with(&["zsh"], "documents::completions::zsh", zsh),
        test_with(&["fish"], "documents::completions::fish", fish),
        test("documents::man::a_page_for_each_subcommand", a_page_for_each_subcommand),
        test_with(&["groff"], "documents::man::pages_are_sound", pages_are_sound),
        test("documents::man::of_the_file_and_the_library", pages_of_the_file_and_the_library),
        test("documents::man::what_cannot_be_written", what_cannot_be_written),
        test("documents::kernel::what_it_sets_is_listed", what_the_kernel_sets_is_listed),
        test("documents::schema::is_committed", schema_is_committed),
        test_with(
            &["python3 module jsonschema"],
            "documents::schema::accepts_and_refuses_as_the_compiler",
            schema_accepts_and_refuses_as_the_compiler,
        ),
        test("documents::schema::examples_compile", examples_of_the_schema_compile),
    ]
}

fn printed(arguments: &[&str]) -> String {
    let (code, stdout, stderr) = outcome(plain(sockopt()).env("COLUMNS", "80").args(arguments));
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{arguments:?}");
    stdout
}

/// The subcommands, as the help lists them.
fn subcommands() -> Vec<String> {
    let help = printed(&["-h"]);
    let list = help.split("Commands:\n").nth(1).and_then(|list| list.split("\n\n").next()).unwrap_or_default();
    let names: Vec<String> =
        list.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    assert!(
        ["run", "check", "completions", "man", "schema"].iter().all(|name| names.iter().any(|n| n == name)),
        "{help}"
    );
    names
}

/// The long options of a help page.
fn options(help: &str) -> BTreeSet<String> {
    let starts = help.lines().filter(|line| line.starts_with("  "));
    let words = starts
        .filter_map(|line| line.split_whitespace().find(|word| !word.starts_with("-h") && !word.starts_with("-V")));
    words.filter(|word| word.starts_with("--")).map(|word| word.trim_end_matches([',', '.']).to_owned()).collect()
}

/// 24 lines of 80 columns, for the command and each subcommand. Seen to fail with every option shown.
fn short_help_fits_a_screen() {
    for subcommand in subcommands().iter().map(String::as_str).chain([""]) {
        let arguments: Vec<&str> = [subcommand, "-h"].into_iter().filter(|word| !word.is_empty()).collect();
        let help = printed(&arguments);
        assert!(help.lines().count() <= 24, "{subcommand}: {} lines\n{help}", help.lines().count());
        assert!(help.lines().all(|line| line.chars().count() <= 80), "{subcommand}: too wide\n{help}");
    }
    let help = printed(&["run", "-h"]);
    for option in
        ["--dead-peer-timeout", "--keepalive", "--to", "--config", "--dry-run", "--library", "more with --help"]
    {
        assert!(help.contains(option), "{option} is not in\n{help}");
    }
    assert!(!help.contains("--ttl"), "{help}");
    assert!(printed(&["check", "-h"]).contains("--allow <CODE>"));
}

/// Every option with its variable, every exit code. Seen to fail with options hidden from both.
fn long_help_has_everything() {
    let help = printed(&["run", "--help"]);
    let found = options(&help);
    for option in VALUES.iter().map(|(option, _)| *option).chain([
        "dead-peer-timeout",
        "to",
        "process",
        "log",
        "log-file",
        "config",
        "library",
        "force",
        "strict",
        "dry-run",
    ]) {
        assert!(found.contains(&format!("--{option}")), "--{option} is not in\n{help}");
    }
    let words: Vec<&str> = help.split_whitespace().collect();
    for (option, _) in VALUES {
        let variable = format!("SOCKOPT_{}]", option.replace('-', "_").to_uppercase());
        assert!(words.contains(&variable.as_str()), "{variable} is not in\n{help}");
    }
    assert!(help.contains("--rule-file"), "{help}");
    for subcommand in subcommands() {
        let help = printed(&[&subcommand, "--help"]);
        assert!(help.contains("\nExit status:\n  0  "), "{subcommand}: {help}");
        // Of each its own.
        assert_eq!(help.contains("\n  127  "), subcommand == "run", "{subcommand}: {help}");
        assert_eq!(
            help.contains("\n  78"),
            ["run", "check", "explain", "apply", "import", "attach", "agent"].contains(&&*subcommand),
            "{subcommand}: {help}"
        );
        assert!(help.lines().all(|line| line.chars().count() <= 80), "{subcommand}: too wide\n{help}");
    }
    assert!(printed(&["explain", "--help"]).contains("\nExamples:\n  sockopt explain --config "));
    // Those that programs in the kernel cannot set are not offered.
    for subcommand in ["attach", "agent"] {
        let help = printed(&[subcommand, "--help"]);
        let found = options(&help);
        for entry in policy::CATALOG.iter().filter(|entry| entry.accepts != policy::catalog::Accepts::Raw) {
            let option = format!("--{}", entry.key.name().replace('_', "-"));
            let is_done = matches!(entry.about().in_kernel, policy::InKernel::Bpf { .. });
            assert_eq!(found.contains(&option), is_done, "{subcommand} {option}: {help}");
        }
    }
    for (subcommand, target) in [("attach", "<TARGET>"), ("detach", "<TARGET>"), ("status", "[TARGET]")] {
        let help = printed(&[subcommand, "--help"]);
        assert_eq!(help.matches("TARGET").count(), help.matches(target).count(), "{subcommand}: {help}");
    }
    // What stands in columns at the end is not broken.
    for subcommand in subcommands().iter().map(String::as_str).chain([""]) {
        let end = |columns: &str| {
            let arguments = [subcommand, "--help"].into_iter().filter(|word| !word.is_empty());
            let (_, help, _) = outcome(plain(sockopt()).env("COLUMNS", columns).args(arguments));
            let from = help.find("\nVerdicts:\n").or_else(|| help.find("\nExit status:\n")).expect("an end");
            help.get(from..).map(str::to_owned)
        };
        assert_eq!(end("80"), end("300"), "{subcommand}");
    }
    let help = printed(&["--help"]);
    for part in
        ["\nExit status:\n", "\nEnvironment:\n", "\nFiles:\n", "SOCKOPT_CONFIG_TOML", "/etc/sockopt/sockopt.toml"]
    {
        assert!(help.contains(part), "{part} is not in\n{help}");
    }
}

/// Seen to fail with `man` left out of the definition that they are made of.
fn completions_name_every_option() {
    for shell in ["bash", "zsh", "fish"] {
        let script = printed(&["completions", shell]);
        for subcommand in subcommands() {
            assert!(script.contains(&subcommand), "{shell} lacks {subcommand}");
            for option in options(&printed(&[&subcommand, "--help"])) {
                let bare = option.trim_start_matches('-');
                let named = [format!("--{bare}"), format!("-l {bare}")];
                assert!(named.iter().any(|name| script.contains(name)), "{shell} lacks {option} of {subcommand}");
            }
        }
    }
    // Of which there is a page.
    let (_, _, stderr) = outcome(plain(sockopt()).args(["man", "unknown"]));
    assert!(
        stderr.contains(&format!("[possible values: {}, sockopt.toml, libsockopt]", subcommands().join(", "))),
        "{stderr}"
    );
    let (code, _, stderr) = outcome(plain(sockopt()).args(["completions", "tcsh"]));
    assert_eq!(code, Some(2), "{stderr}");
}

/// What a shell says after it has read the completions.
fn asked(shell: &str, script: &Path, question: &str) -> String {
    let text = format!("{}\n{question}\n", fs::read_to_string(script).expect("the script"));
    let (code, stdout, stderr) = outcome(plain(shell).arg(write(script.parent().expect("a folder"), "asked", text)));
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{shell}");
    stdout
}

fn completions(shell: &str) -> PathBuf {
    let script = write(&scratch(&format!("documents-{shell}")), "script", printed(&["completions", shell]));
    assert_eq!(outcome(plain(shell).arg("-n").arg(&script)), (Some(0), String::new(), String::new()), "{shell} -n");
    script
}

/// Seen to fail with the generated script alone, which takes what belongs to the program for its own.
fn bash() {
    let script = completions("bash");
    // As bash calls it: the words are split at colons and equals signs, too.
    const COMPLETE: &str = r#"
compopt() { :; }
_command_offset() { COMPREPLY=("offset $1"); }
complete_line() {
  COMP_LINE=$1; COMP_POINT=${#1}; COMPREPLY=(); shift
  COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
  _sockopt_or_program sockopt "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
  echo " ${COMPREPLY[*]} "
}
"#;
    let complete = |line: &str| {
        let words = line.replace(':', " : ").replace('=', " = ");
        let last = if line.ends_with(' ') { "''" } else { "" };
        asked("bash", &script, &format!("{COMPLETE}complete_line '{line}' {words} {last}"))
    };
    for (line, expected) in [
        ("sockopt comp", " completions "),
        ("sockopt run --dead", " --dead-peer-timeout "),
        ("sockopt run --log ", " off error warn info debug "),
        ("sockopt run --to :443 --rule", " --rule-file "),
        // What the program takes is the program's.
        ("sockopt run true --dead", " offset 2 "),
        ("sockopt run --ttl=9 true --dead", " offset 5 "),
        ("sockopt run --to :443 -- true ", " offset 6 "),
        ("sockopt run --ttl ", "  "),
    ] {
        assert_eq!(complete(line), format!("{expected}\n"), "{line}");
    }
    for line in
        ["sockopt run bas", "sockopt run --to :443 bas", "sockopt run --ttl=9 -- bas", "sockopt run --strict bas"]
    {
        assert!(complete(line).contains(" bash "), "{line}: {}", complete(line));
    }
    assert!(complete("sockopt run ").contains(" --dead-peer-timeout "));
}

fn zsh() {
    let script = completions("zsh");
    let text = fs::read_to_string(&script).expect("the script");
    assert!(text.starts_with("#compdef sockopt\n"), "{text}");
    assert!(text.contains("program") && text.contains(":_cmdambivalent"), "no programs for run");
}

/// Seen to fail without what is added to the generated script.
fn fish() {
    let script = completions("fish");
    let complete = |words: &str| {
        let answers = asked("fish", &script, &format!("complete -C'{words}'"));
        answers.lines().filter_map(|line| line.split('\t').next()).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(complete("sockopt run --dead"), ["--dead-peer-timeout"]);
    assert_eq!(complete("sockopt completions f"), ["fish"]);
    assert!(complete("sockopt run --to :443 bas").contains(&"bash".to_owned()));
    assert!(complete("sockopt run fish --vers").contains(&"--version".to_owned()), "it is fish(1)'s");
}

/// The pages, by their names.
fn pages(folder: &Path) -> Vec<PathBuf> {
    let (code, stdout, stderr) = outcome(plain(sockopt()).args(["man", "--out"]).arg(folder));
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (Some(0), "", ""));
    let list = |folder: &Path| {
        let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        entries.map(|entry| entry.expect("an entry").path()).collect::<Vec<_>>()
    };
    list(folder).iter().flat_map(|section| list(section)).collect()
}

/// Every option of the configuration is in sockopt.toml(5), with what the catalogue says of it; every variable in libsockopt(7). Seen
/// to fail with a row of the catalogue, and a variable, left out.
fn pages_of_the_file_and_the_library() {
    let folder = scratch("documents-pages");
    let shown = |name: &str, file: &str| {
        pages(&folder);
        let page = fs::read_to_string(folder.join(file)).expect("a page");
        assert!(page.is_ascii() && page == printed(&["man", name]), "{page}");
        page.replace("\\-", "-").replace("\\*(Aq", "'")
    };
    let page = shown("sockopt.toml", "man5/sockopt.toml.5");
    assert!(page.starts_with(".TH SOCKOPT.TOML 5 "), "{page}");
    for entry in policy::CATALOG {
        let name = entry.key.name();
        let at = page.find(&format!(".TP\n\\fB{name}\\fR\n")).unwrap_or_else(|| panic!("no {name} in {page}"));
        let about = page[at..].split(".TP\n").nth(1).unwrap_or_default().to_lowercase();
        let summary = entry.about().summary.to_lowercase();
        assert!(about.contains(&summary), "{name}: {about}");
    }
    let page = shown("libsockopt", "man7/libsockopt.7");
    assert!(page.starts_with(".TH LIBSOCKOPT 7 "), "{page}");
    for variable in policy::variables::CONTROL {
        let name = format!("{}{variable}", policy::variables::PREFIX);
        assert!(page.contains(&format!("\\fB{name}\\fR\n")), "no {name} in {page}");
    }
    // What accepted sockets have only from some rules is told so. Seen to fail with the phases of the catalogue's row.
    let help = printed(&["run", "--help"]).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        help.contains(
            "Set at connect; on accepted sockets only by a rule with listen or from. Kernel option SO_LINGER"
        ),
        "{help}"
    );
    assert!(help.contains("Set at connect, listen. Kernel option TCP_NODELAY"), "{help}");
}

/// Seen to fail with a page left out.
fn a_page_for_each_subcommand() {
    let all = scratch("documents-man");
    let folder = all.join("man1");
    let names: BTreeSet<String> = pages(&all)
        .iter()
        .filter_map(|page| page.file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    let expected = subcommands()
        .into_iter()
        .map(|name| format!("sockopt-{name}.1"))
        .chain(["sockopt.1", "sockopt.toml.5", "libsockopt.7"].map(str::to_owned));
    assert_eq!(names, expected.collect());
    for subcommand in subcommands() {
        let page = fs::read_to_string(folder.join(format!("sockopt-{subcommand}.1"))).expect("a page");
        assert_eq!(page, printed(&["man", &subcommand]), "{subcommand}");
        assert!(
            page.is_ascii()
                && page.starts_with(&format!(".TH SOCKOPT-{} 1 \"\" \"sockopt ", subcommand.to_uppercase())),
            "{page}"
        );
        assert!(page.contains("\n.SH \"EXIT STATUS\"\n.TP\n\\fB0\\fR\n"), "{subcommand}: {page}");
        let plain = page.replace("\\-", "-");
        for option in options(&printed(&[&subcommand, "--help"])) {
            assert!(plain.contains(&option), "{option} is not in the page of {subcommand}");
        }
    }
    let page = printed(&["man"]);
    assert_eq!(page, fs::read_to_string(folder.join("sockopt.1")).expect("a page"));
    assert!(page.contains("\n.SH ENVIRONMENT\n") && page.contains("\n.SH FILES\n"), "{page}");
    assert!(printed(&["man", "run"]).replace("\\-", "-").contains("Also --rule-file."));
}

/// groff finds nothing to warn of, nor mandoc where it is installed. Seen to fail with other characters than ASCII.
fn pages_are_sound() {
    for page in pages(&scratch("documents-groff")) {
        let checked = outcome(plain("groff").args(["-man", "-ww", "-z", "-Tutf8"]).arg(&page));
        assert_eq!(checked, (Some(0), String::new(), String::new()), "{}", page.display());
        let (_, shown, _) = outcome(plain("groff").args(["-man", "-Tutf8", "-P-c"]).arg(&page));
        let manual = match page.extension().and_then(|section| section.to_str()) {
            Some("1") => "User Commands",
            Some("5") => "File Formats",
            _ => "Miscellaneous Information",
        };
        assert!(shown.contains(manual) && !shown.contains("Manual"), "{shown}");
        if find("mandoc").is_some() {
            let (_, found, _) = outcome(plain("mandoc").args(["-Tlint", "-Wwarning"]).arg(&page));
            // There is no date, so that two builds are the same.
            assert!(found.lines().all(|line| line.contains("missing date")), "{found}");
        }
    }
}

fn what_cannot_be_written() {
    let file = write(&scratch("documents-written"), "file", "");
    let (code, _, stderr) = outcome(plain(sockopt()).args(["man", "--out"]).arg(&file));
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.starts_with("error: ") && stderr.contains("cannot be written"), "{stderr}");
    let (code, _, stderr) = outcome(plain(sockopt()).args(["man", "nothing"]));
    assert_eq!(code, Some(2), "{stderr}");
    // A full disk is told, a reader that has gone is none.
    for what in [&["man", "run"][..], &["schema"], &["completions", "bash"]] {
        let full = fs::File::options().write(true).open("/dev/full").expect("/dev/full");
        let output = plain(sockopt()).args(what).stdout(full).output().expect("sockopt can be started");
        assert_eq!(output.status.code(), Some(1), "{what:?}");
        assert!(text(&output).1.starts_with("error: "), "{what:?}");
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = plain(sockopt()).args(what).stdout(writer).output().expect("sockopt can be started");
        assert_eq!((output.status.code(), text(&output).1.as_str()), (Some(0), ""), "{what:?}");
    }
}

/// The list in docs/design-kernel.md, and sockopt.toml(5), say what the catalogue says. `UPDATE_EXPECTED=1` writes the list anew.
///
/// Seen to fail: with linger's column of the catalogue changed.
fn what_the_kernel_sets_is_listed() {
    const END: &str = "<!-- /from the catalogue -->";
    let file = root().join("docs/design-kernel.md");
    let text = fs::read_to_string(&file).expect("a document");
    let (before, rest) = text.split_once("<!-- from the catalogue:").expect("its beginning");
    let (mark, rest) = rest.split_once('\n').expect("the line's end");
    let (list, after) = rest.split_once(END).expect("its end");
    let table = policy::table_of_the_kernel();
    if env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(&file, format!("{before}<!-- from the catalogue:{mark}\n{table}{END}{after}"))
            .expect("it can be written");
        return;
    }
    assert!(list == table, "docs/design-kernel.md is stale: {table}");
    let page = printed(&["man", "sockopt.toml"]).replace("\\-", "-");
    for entry in policy::CATALOG {
        let words = format!("In the kernel (sockopt-attach(1)): {}.", entry.in_kernel_in_words());
        assert!(page.contains(&words), "{words}\n{page}");
    }
}

/// `UPDATE_EXPECTED=1` writes it anew. Seen to fail with a range of the catalogue changed.
fn schema_is_committed() {
    let file = root().join("config/sockopt.schema.json");
    let schema = printed(&["schema"]);
    if env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(&file, schema).expect("the schema can be written");
        return;
    }
    let committed = fs::read_to_string(&file).unwrap_or_default();
    assert!(committed == schema, "{} is stale: sockopt schema prints something else", file.display());
    // Editors find it by the first line.
    for configuration in ["config/sockopt.toml", "config/presets/dead-peer-15s.toml"] {
        let file = root().join(configuration);
        let text = fs::read_to_string(&file).expect("a configuration");
        let named = text.lines().next().and_then(|line| line.strip_prefix("#:schema ")).unwrap_or_default();
        assert!(file.parent().expect("a folder").join(named).is_file(), "{configuration} names {named:?}");
    }
}

/// Errors that follow from other keys, or from arithmetic: no schema sees them.
const BEYOND_A_SCHEMA: [&str; 7] = [
    "auto_broken_by_a_rule",
    "auto_too_long",
    "auto_with_half_a_keepalive",
    "auto_without_keepalive",
    "defer_accept",
    "never_set",
    "raw_shapes",
];

/// Every unit, and every form of an address.
const FORMS: &str = r#"
[defaults]
receive_timeout = "1500000us"
[[rule]]
to = ["*", ":80", "*:80-90", "10.1.2.3", "10.1.2.3:1", "10.0.0.0/8:443", " [::1] ", "[::1]:1", "[2001:db8::/32]:8000-8099"]
receive_timeout = "1h 2m3s4ms"
receive_buffer = "1152B"
max_pacing_rate = "1GB"
[[rule]]
to = ["2001:db8::/32", "::ffff:10.1.2.3", "::", "[::ffff:10.0.0.0/104]:1", "[10.1.2.3]:80", "0.0.0.0/0"]
user_timeout = "1d"
receive_buffer = "64 kB"
send_buffer = "64KB"
max_pacing_rate = "unlimited"
[[rule]]
receive_buffer = "1MB"
send_buffer = "512MiB"
notsent_lowat = "1KiB"
max_pacing_rate = "1GiB"
"#;

/// Every configuration that is right is so by the schema, and every wrong one is wrong by it that a schema can see.
/// Seen to fail with days left out of the durations, with integers for durations, and with keys of any name.
fn schema_accepts_and_refuses_as_the_compiler() {
    let folder = scratch("documents-schema");
    let list = |folder: &str| {
        let entries = fs::read_dir(root().join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
        let files = entries.map(|entry| entry.expect("an entry").path());
        files.filter(|file| file.extension().is_some_and(|extension| extension == "toml")).collect::<Vec<_>>()
    };
    let mut files = list("tests/fixtures/errors");
    files.extend(["config", "config/presets", "examples/jmeter"].into_iter().flat_map(list));
    for file in list("tests/fixtures/decisions") {
        let text = fs::read_to_string(&file).expect("a fixture");
        let toml = text.split("---\n").next().unwrap_or_default();
        files.push(write(&folder, &file.file_name().expect("a name").to_string_lossy(), toml));
    }
    files.push(write(&folder, "forms.toml", FORMS));
    let mut validator = Command::new("python3");
    validator.arg(root().join("tests/schema.py")).arg(root().join("config/sockopt.schema.json"));
    let mut child = validator.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3");
    let names: String = files.iter().map(|file| format!("{}\n", file.display())).collect();
    child.stdin.take().expect("a pipe").write_all(names.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("a child of ours");
    assert!(output.status.success(), "{}", text(&output).1);
    let (mut right, mut wrong, mut verdicts) = (0, 0, text(&output).0.lines().count());
    assert_eq!(verdicts, files.len());
    let mut seen = BTreeSet::new();
    for line in text(&output).0.lines() {
        let (file, verdict) = line.split_once('\t').unwrap_or_else(|| panic!("no verdict: {line}"));
        let text = fs::read_to_string(file).expect("a configuration");
        let document = Some(Source { name: file.to_owned(), text });
        let compiled = compile(&Configuration { document, variables: Vec::new() }, &Process::default());
        let name = Path::new(file).file_stem().unwrap_or_default().to_string_lossy().into_owned();
        match (compiled.rules.is_ok(), verdict == "ok") {
            (true, true) => right += 1,
            (false, false) => wrong += 1,
            (false, true) if BEYOND_A_SCHEMA.contains(&name.as_str()) => drop(seen.insert(name)),
            _ => panic!("{file}: {verdict}, but for the compiler {:?}", compiled.rules.err()),
        }
        verdicts -= 1;
    }
    assert_eq!(verdicts, 0);
    assert!(right > 50 && wrong > 60 && seen.len() == BEYOND_A_SCHEMA.len(), "{right} right, {wrong} wrong, {seen:?}");
}

/// What an editor proposes is right.
fn examples_of_the_schema_compile() {
    let schema: serde_json::Value = serde_json::from_str(&printed(&["schema"])).expect("JSON");
    let definitions = schema["definitions"].as_object().expect("definitions");
    let mut tried = 0;
    for (key, definition) in definitions.iter().filter(|(key, _)| policy::Key::from_name(key).is_some()) {
        for example in definition["examples"].as_array().into_iter().flatten() {
            let text = format!(
                "[defaults]\n{}{key} = {}\n",
                if example == "auto" { "keepalive = { time = \"1s\", interval = \"1s\", probes = 1 }\n" } else { "" },
                toml(example)
            );
            let document = Some(Source { name: "example".into(), text: text.clone() });
            let compiled = compile(&Configuration { document, variables: Vec::new() }, &Process::default());
            assert!(compiled.rules.is_ok(), "{text}: {:?}", compiled.rules.err());
            tried += 1;
        }
    }
    assert!(tried > 15, "{tried}");
}

/// JSON as TOML has it, on one line.
fn toml(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Object(table) => {
            let parts: Vec<String> = table.iter().map(|(key, value)| format!("{key} = {}", toml(value))).collect();
            format!("{{ {} }}", parts.join(", "))
        }
        serde_json::Value::Array(list) => format!("[{}]", list.iter().map(toml).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}
