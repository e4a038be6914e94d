//! What the code promises about itself: where `unsafe` may stand, what the products export, what the documents name.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use libtest_mimic::Trial;
use object::Endianness;
use object::read::elf::ElfFile64;
use object::read::{Object, ObjectSymbol};
use policy::constants;
use policy::{CATALOG, Configuration, Process, Source, compile, variables};

use crate::support::{library, root, sockopt, test};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        test("house::code_is_told_from_comments", code_is_told_from_comments),
        test("house::unsafe_stands_in_few_files", unsafe_stands_in_few_files),
        test("house::programs_are_copied_by_others", programs_are_copied_by_others),
        test("house::every_package_has_the_lints", every_package_has_the_lints),
        test("house::no_panics_and_prints_in_the_library", no_panics_and_prints_in_the_library),
        test("house::the_library_exports_the_hooks", the_library_exports_the_hooks),
        test("house::the_layout_names_what_exists", the_layout_names_what_exists),
        test("house::no_files_need_each_other", no_files_need_each_other),
        test("house::the_command_defines_no_hook", the_command_defines_no_hook),
        test("house::the_reference_configuration_has_every_key", the_reference_configuration_has_every_key),
        test("house::the_reference_configuration_can_be_switched_on", the_reference_configuration_can_be_switched_on),
        test("house::every_configuration_file_compiles", every_configuration_file_compiles),
        test("house::the_documents_name_every_key", the_documents_name_every_key),
        test("house::the_documents_name_every_variable", the_documents_name_every_variable),
        test("house::every_key_is_tried", every_key_is_tried),
        test("house::numbers_are_compared_with_libc", numbers_are_compared_with_libc),
        test("house::the_wrapper_knows_every_option", the_wrapper_knows_every_option),
        test("house::the_documents_name_every_hook", the_documents_name_every_hook),
        test("house::configurations_in_the_documents_compile", configurations_in_the_documents_compile),
        test("house::the_readme_is_short", the_readme_is_short),
        test("house::links_lead_somewhere", links_lead_somewhere),
    ]
}

/// Where `unsafe` is allowed; docs/design.md names them.
const MAY_BE_UNSAFE: [&str; 14] = [
    "src/cgroup/sys.rs",
    "src/preload/elf.rs",
    "src/preload/hooks.rs",
    "src/preload/arena.rs",
    "src/preload/libc_compat.rs",
    "src/preload/libc_symbols.rs",
    "src/preload/real.rs",
    "src/preload/rebind.rs",
    "src/preload/unwinding.rs",
    "src/socket/ffi.rs",
    "src/socket/line.rs",
    "src/socket/memory.rs",
    "src/socket/signal.rs",
    "src/supervise/sys.rs",
];

/// Where every key and variable stands.
const REFERENCE: &str = "docs/configuration.md";
/// Where every hook stands, and every file that may be unsafe.
const DESIGN: &str = "docs/design.md";

/// What libsockopt.so interposes.
const HOOKS: [&str; 30] = [
    "__poll_chk",
    "__ppoll_chk",
    "accept",
    "accept4",
    "bind",
    "close",
    "close_range",
    "connect",
    "dlmopen",
    "dlopen",
    "dup2",
    "dup3",
    "epoll_ctl",
    "getaddrinfo",
    "gethostbyname",
    "gethostbyname2",
    "gethostbyname2_r",
    "gethostbyname_r",
    "getpeername",
    "getsockopt",
    "listen",
    "poll",
    "ppoll",
    "prctl",
    "pselect",
    "select",
    "sendmmsg",
    "sendmsg",
    "sendto",
    "setsockopt",
];

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file with this extension in or below a folder, by its path in the repository.
fn files(folder: &str, extension: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(root().join(&folder)).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for entry in entries {
            let entry = entry.expect("a folder's entry");
            let path = folder.join(entry.file_name());
            if entry.path().is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path.display().to_string());
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no *.{extension} in {folder}");
    found
}

/// Rust without its comments and the contents of its literals; line breaks stay.
fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let raw = rest
            .strip_prefix('r')
            .map(|behind| behind.trim_start_matches('#'))
            .filter(|behind| behind.starts_with('"'));
        let is_inside_word = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(behind) = raw.filter(|_| !is_inside_word) {
            let hashes = rest.len() - behind.len() - 1;
            let end = format!("\"{}", "#".repeat(hashes));
            behind.get(1..).and_then(|inside| inside.find(&end)).map_or(rest.len(), |at| hashes + 2 + at + end.len())
        } else if first == '"' {
            closing(rest, '"')
        } else if first == '\'' && (rest[1..].starts_with('\\') || rest[1..].chars().nth(1) == Some('\'')) {
            closing(rest, '\'')
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        code.extend(rest[..length].chars().filter(|c| *c == '\n'));
        code.push(' ');
        rest = &rest[length..];
    }
    code
}

/// The length of a literal with its quotes.
fn closing(text: &str, quote: char) -> usize {
    let mut is_escaped = true; // as the first quote does not close it
    for (at, c) in text.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn has_word(code: &str, word: &str) -> bool {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|found| found == word)
}

fn code_is_told_from_comments() {
    let text = "// unsafe\nlet a = \"unsafe \\\" unsafe\"; /* unsafe\n */ let c = '\"'; let d: &'static str = r#\"unsafe \" \"#; e('\\'');";
    assert!(!has_word(&code(text), "unsafe"), "{}", code(text));
    for kept in ["let a", "let c", "let d", "static", "e("] {
        assert!(code(text).contains(kept), "{kept}: {}", code(text));
    }
    assert_eq!(code(text).lines().count(), text.lines().count());
    assert!(has_word(&code("let a = 'b'; unsafe { c(\"d\") }"), "unsafe"));
    assert!(!has_word("unsafe_code", "unsafe"));
}

fn unsafe_stands_in_few_files() {
    let mut found = BTreeSet::new();
    for folder in ["src", "tests", "examples", "benches"] {
        for file in files(folder, "rs") {
            let code = code(&read(&file));
            let is_exception = has_word(&code, "unsafe_code") && !code.contains("forbid(unsafe_code)");
            if is_exception || has_word(&code, "unsafe") {
                found.insert(file);
            }
        }
    }
    assert_eq!(found, BTreeSet::from(MAY_BE_UNSAFE.map(str::to_owned)));
    let reasons = read(DESIGN);
    for file in MAY_BE_UNSAFE {
        let name = format!("`{}`", file.trim_start_matches("src/"));
        assert!(reasons.contains(&name), "{DESIGN} does not say that {name} is unsafe");
    }
}

/// See `command::install`. Seen to fail: with the copies that a test of the supervisor made, which now and then were not
/// started.
fn programs_are_copied_by_others() {
    let copies: Vec<String> =
        files("tests", "rs").into_iter().filter(|file| code(&read(file)).contains("fs::copy(")).collect();
    assert!(copies.is_empty(), "command::copy in place of fs::copy: {copies:?}");
}

fn every_package_has_the_lints() {
    assert!(read("Cargo.toml").contains("unsafe_code = \"deny\""));
    for manifest in files("src", "toml").iter().map(String::as_str).chain(["Cargo.toml"]) {
        assert!(read(manifest).contains("[lints]\nworkspace = true"), "{manifest} does not take the workspace's lints");
    }
}

fn no_panics_and_prints_in_the_library() {
    const FORBIDDEN: [&str; 10] = [
        ".unwrap()",
        ".expect(",
        "panic!",
        "println!",
        "print!",
        "eprint!",
        "dbg!",
        "todo!",
        "unimplemented!",
        "unreachable!",
    ];
    let mut wrong = Vec::new();
    for file in
        ["src/preload", "src/socket", "src/supervise", "src/cgroup"].into_iter().flat_map(|folder| files(folder, "rs"))
    {
        // Panics on request are what it is for; a build script speaks to cargo.
        let is_test = file.starts_with("src/cgroup/checks");
        if file.ends_with("preload/fault.rs") || file.ends_with("preload/build.rs") || is_test {
            continue;
        }
        let code = code(&read(&file));
        // Tests stand at the end of a file.
        let code = code.split("#[cfg(test)]").next().unwrap_or_default();
        for (index, line) in code.lines().enumerate() {
            wrong.extend(
                FORBIDDEN
                    .iter()
                    .filter(|word| line.contains(**word))
                    .map(|word| format!("{file}:{}: {word}", index + 1)),
            );
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The names that a product defines: for others to link with, or at all.
fn defined(file: &Path, exported: bool) -> BTreeSet<String> {
    let bytes = fs::read(file).expect("a product");
    let elf = ElfFile64::<Endianness>::parse(&*bytes).expect("an ELF file");
    let symbols: Vec<_> = if exported { elf.dynamic_symbols().collect() } else { elf.symbols().collect() };
    let definitions = symbols.iter().filter(|symbol| symbol.is_definition());
    definitions.filter_map(|symbol| symbol.name().ok()).map(str::to_owned).collect()
}

fn the_library_exports_the_hooks() {
    assert_eq!(defined(&library(), true), BTreeSet::from(HOOKS.map(str::to_owned)));
}

/// layout.ld names functions by their mangled names, which hold a module's name and its length: what it places there is there.
/// Seen to fail: with a module that has another name by now, and with a function that does not exist.
fn the_layout_names_what_exists() {
    let (library, command) = (read("src/preload/layout.ld"), read("src/cli/layout.ld"));
    let mut placed = 0;
    let starts = [".text.*", ".bss.*", ".text._*", ".rodata._*"];
    let words = library.split_whitespace().chain(command.split_whitespace()).map(|word| word.trim_start_matches("*("));
    for pattern in words.filter(|word| starts.iter().any(|start| word.starts_with(start))) {
        let mut parts = Vec::new();
        let mut rest = pattern.trim_end_matches([')', ';']).split_once('*').expect("a star").1;
        while let Some(at) = rest.find(|c: char| !c.is_ascii_digit()).filter(|at| *at > 0) {
            let length: usize = rest[..at].parse().expect("a number");
            parts.push(rest.get(at..at + length).unwrap_or_else(|| panic!("{pattern}: not {length} long")));
            rest = &rest[at + length..];
        }
        assert_eq!(rest, "*", "{pattern}");
        let folder = match parts.remove(0) {
            "sockopt" => "preload",
            part @ ("socket" | "policy" | "supervise") => part,
            // Of std, whose names are not ours to hold.
            _ => continue,
        };
        let module = parts.remove(0);
        let file = code(&read(format!("src/{folder}/{module}.rs")));
        let missing = parts.iter().find(|part| !has_word(&file, part));
        assert!(missing.is_none(), "{pattern}: there is no {missing:?} in src/{folder}/{module}.rs");
        placed += 1;
    }
    assert!(placed > 35, "{placed} patterns of ours");
    let hooks = "\"".to_owned() + ".text.sockopt_hooks\"";
    assert!(read("src/preload/hooks.rs").contains(&hooks) && library.contains(".text.sockopt_hooks"), "{hooks}");
}

/// Which modules of its crate a file names outside its tests: `crate::module` and `use crate::{one, other::Thing}`.
fn modules_named(code: &str) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for piece in code.split("crate::").skip(1) {
        let mut depth = 0_usize;
        let mut word = String::new();
        // The first word of each entry of the list that follows, or the one word.
        for c in piece.chars() {
            match c {
                'a'..='z' | '0'..='9' | '_' if depth <= 1 && !word.ends_with('!') => word.push(c),
                '{' => depth += 1,
                ',' if depth == 1 => {
                    named.insert(std::mem::take(&mut word).trim_end_matches('!').to_owned());
                }
                '}' if depth <= 1 => break,
                '}' => depth -= 1,
                _ if depth == 0 => break,
                c if !c.is_whitespace() && !word.ends_with('!') => word.push('!'),
                _ => {}
            }
        }
        named.insert(word.trim_end_matches('!').to_owned());
    }
    named
}

/// Seen to fail: on the files before `Key`, `Name` and the hasher had files of their own, and with `matcher` used in `ports`;
/// on those of the command while `args` put its definition together and `output` asked for it, and on those of the benchmarks
/// while `variants` had the rules from `rules`.
fn no_files_need_each_other() {
    assert_eq!(modules_named("use crate::a; crate::b::C; use crate::{d, e::{f, g}, h::I};").len(), 5);
    for folder in [
        "src/preload",
        "src/policy",
        "src/socket",
        "src/launch",
        "src/supervise",
        "src/import",
        "src/cgroup",
        "src/cli",
        "benches",
    ] {
        let mut needs: Vec<(String, BTreeSet<String>)> = Vec::new();
        for file in files(folder, "rs") {
            let text = read(&file);
            let before_tests = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned();
            let name = Path::new(&file).file_stem().expect("a name").to_string_lossy().into_owned();
            needs.push((name, modules_named(&code(&before_tests))));
        }
        let known: BTreeSet<String> = needs.iter().map(|(name, _)| name.clone()).collect();
        for (name, others) in &mut needs {
            others.retain(|other| other != name && known.contains(other));
        }
        assert!(needs.iter().any(|(_, others)| !others.is_empty()), "{folder}: nothing needs anything");
        // Whoever needs nothing that is left is no part of a circle.
        while let Some(at) = needs.iter().position(|(_, others)| others.is_empty()) {
            let (done, _) = needs.swap_remove(at);
            needs.iter_mut().for_each(|(_, others)| {
                others.remove(&done);
            });
        }
        assert!(needs.is_empty(), "{folder}: a circle among {needs:#?}");
    }
}

fn the_command_defines_no_hook() {
    for exported in [true, false] {
        let names = defined(sockopt(), exported);
        let hooks: Vec<&str> = HOOKS.into_iter().filter(|hook| names.contains(*hook)).collect();
        assert!(hooks.is_empty(), "the command defines {}", hooks.join(", "));
    }
    // The test of the test: the names can be seen.
    assert!(defined(sockopt(), false).contains("main"));
}

/// Problems of a configuration, one a line; nothing if it is fine.
fn problems(name: &str, text: String) -> String {
    let document = Some(Source { name: name.to_owned(), text });
    let compiled = compile(&Configuration { document, variables: Vec::new() }, &Process::default());
    let errors = compiled.rules.as_ref().err().into_iter().flatten();
    errors.chain(&compiled.warnings).map(|problem| format!("{}\n", problem.one_line(&compiled.sources))).collect()
}

fn the_reference_configuration_has_every_key() {
    let text = read("config/sockopt.toml");
    let gives = |line: &str, key: &str| {
        let line = line.strip_prefix('#').unwrap_or(line);
        line.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='))
    };
    let missing: Vec<&str> = CATALOG
        .iter()
        .map(|entry| entry.key.name())
        .chain(["name", "to", "listen", "from", "process", "command"])
        .filter(|key| !text.lines().any(|line| gives(line, key)))
        .collect();
    assert!(missing.is_empty(), "config/sockopt.toml has no {}", missing.join(", "));
}

/// `#key = value` is ready to be switched on, `# text` explains.
fn the_reference_configuration_can_be_switched_on() {
    let text = read("config/sockopt.toml");
    let is_off =
        |line: &&str| line.starts_with('#') && !line.starts_with("# ") && !line.starts_with("#:") && *line != "#";
    assert!(text.lines().filter(is_off).count() > 20);
    // dead_peer_timeout stands for keepalive and user_timeout, which are switched on with the rest; time_wait excludes
    // fin_timeout.
    let switched_on = |line: &str| match line.strip_prefix('#').filter(|_| is_off(&line)) {
        Some(line) if line.starts_with("fin_timeout") => "\n".to_owned(),
        Some(line) => format!("{line}\n"),
        None if line.starts_with("dead_peer_timeout") => "\n".to_owned(),
        None => format!("{line}\n"),
    };
    assert_eq!(problems("config/sockopt.toml", text.lines().map(switched_on).collect()), "");
}

fn every_configuration_file_compiles() {
    let mut files = files("config", "toml");
    assert!(files.iter().filter(|file| file.starts_with("config/presets/")).count() > 0, "no presets");
    files.extend(self::files("examples", "toml"));
    let wrong: String = files.iter().map(|file| problems(file, read(file))).collect();
    assert_eq!(wrong, "");
}

fn missing_in(text: &str, names: impl IntoIterator<Item = String>) -> String {
    let names = names.into_iter().filter(|name| !text.contains(&format!("`{name}`")));
    names.collect::<Vec<_>>().join(", ")
}

fn the_documents_name_every_key() {
    let missing = missing_in(&read(REFERENCE), CATALOG.iter().map(|entry| entry.key.name().to_owned()));
    assert_eq!(missing, "", "{REFERENCE} does not name these keys");
}

fn the_documents_name_every_variable() {
    let reference = read(REFERENCE);
    // With or without an example of its value.
    let names = variables::CONTROL.iter().map(|name| format!("{}{name}", variables::PREFIX));
    let missing: Vec<String> =
        names.filter(|name| !["`", "="].iter().any(|end| reference.contains(&format!("`{name}{end}")))).collect();
    assert!(missing.is_empty(), "{REFERENCE} does not name {}", missing.join(", "));
}

/// Each option is set and read back: in tests/options.rs, but for those that have tests of their own (connecting.rs, time_wait.rs,
/// fill.rs). Seen to fail with a key that had no line there.
fn every_key_is_tried() {
    const ELSEWHERE: [&str; 3] = ["connect_timeout", "time_wait", "enforce"];
    let text = read("tests/options.rs");
    let keys = CATALOG.iter().map(|entry| entry.key.name()).filter(|key| !ELSEWHERE.contains(key));
    let missing: Vec<&str> = keys.filter(|key| !text.contains(&format!("\"{key} = "))).collect();
    assert!(missing.is_empty(), "tests/options.rs does not set {}", missing.join(", "));
    // Those that conflict with others there, and those without a value of their own, have fixtures of their own.
    let moments = read("tests/fixtures/decisions/moments.toml");
    let variables = read("tests/fixtures/decisions/environment_every_variable.toml");
    for key in CATALOG.iter().map(|entry| entry.key) {
        let name = key.name();
        if !["connect_timeout", "time_wait", "enforce", "dead_peer_timeout", "fastopen"].contains(&name) {
            assert!(
                moments.contains(&format!("\n{name} = ")),
                "the fixture decisions/moments.toml does not set {name}"
            );
        }
        if !["connect_timeout", "time_wait", "dead_peer_timeout", "raw"].contains(&name) {
            let variable = format!("\nSOCKOPT_{}=", name.to_uppercase());
            assert!(variables.contains(&variable), "decisions/environment_every_variable.toml does not set {name}");
        }
    }
}

/// `socket/ffi.rs` compares the numbers of the options with libc's. Seen to fail: without IP_FREEBIND and IP_TRANSPARENT
/// there.
fn numbers_are_compared_with_libc() {
    let compared = read("src/socket/ffi.rs");
    let names = CATALOG
        .iter()
        .flat_map(|entry| entry.kernel.iter())
        .filter_map(|option| constants::option_name(option.level, option.name));
    let missing: Vec<&str> = names.filter(|name| !has_word(&compared, name)).collect();
    assert!(missing.is_empty(), "same_as_libc! in src/socket/ffi.rs does not have {}", missing.join(", "));
}

/// The wrapper for containers asks whether anything is configured, by each variable.
fn the_wrapper_knows_every_option() {
    let wrapper = read("examples/container/sockopt-entrypoint");
    let list = wrapper.split_once("for key in ").and_then(|(_, rest)| rest.split_once("; do")).expect("a list").0;
    let known: BTreeSet<&str> = list.split(|c: char| c.is_whitespace() || c == '\\').collect();
    let options = CATALOG.iter().filter(|entry| entry.accepts != policy::catalog::Accepts::Raw);
    let missing: Vec<String> =
        options.map(|entry| entry.key.name().to_uppercase()).filter(|name| !known.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "sockopt-entrypoint does not know {}", missing.join(", "));
}

fn the_documents_name_every_hook() {
    let missing = missing_in(&read(DESIGN), HOOKS.map(str::to_owned));
    assert_eq!(missing, "", "{DESIGN} does not name these hooks");
}

/// README.md and what it leads to, wherever it lies.
fn documents() -> Vec<String> {
    let folders = ["docs", "examples", "tests", "benches"].into_iter();
    let mut found: Vec<String> = folders.flat_map(|folder| files(folder, "md")).collect();
    found.extend(["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(str::to_owned));
    found
}

fn configurations_in_the_documents_compile() {
    for document in ["README.md", REFERENCE] {
        let text = read(document);
        let mut blocks = 0;
        for (index, block) in text.split("\n```toml\n").enumerate().skip(1) {
            let toml = block.split("\n```").next().unwrap_or_default();
            assert_eq!(problems(&format!("{document}, TOML block {index}"), format!("{toml}\n")), "");
            blocks += 1;
        }
        assert!(blocks > 0, "{document} shows no configuration");
    }
}

/// A new user reads it to the end. Seen to fail: the one before had 585 lines.
fn the_readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(lines <= 160, "README.md has {lines} lines: what is beyond a first acquaintance belongs in docs/");
}

/// The text of a document outside of its blocks of code.
fn prose(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

/// As GitHub makes the anchor of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase().replace(' ', "-");
    kept.chars().filter(|&c| c.is_alphanumeric() || c == '-' || c == '_').collect()
}

/// Every relative link in a document leads to a file, and to a heading in it where it names one. Seen to fail with a letter
/// changed in a link, and in an anchor.
fn links_lead_somewhere() {
    let mut wrong = Vec::new();
    let mut followed = 0;
    for document in documents() {
        let text = prose(&read(&document));
        for piece in text.split("](").skip(1) {
            let link = piece.split(')').next().unwrap_or_default();
            if link.contains("://") {
                continue;
            }
            followed += 1;
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let here = Path::new(&document);
            let target = if file.is_empty() { here.to_owned() } else { here.with_file_name(file) };
            let exists = root().join(&target).exists();
            let has_heading = || {
                let text = prose(&read(&target));
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                headings.any(|line| anchor(line.trim_start_matches('#')) == heading)
            };
            if !exists || (!heading.is_empty() && !has_heading()) {
                wrong.push(format!("{document}: {link}"));
            }
        }
    }
    assert!(wrong.is_empty(), "these links lead nowhere:\n{}", wrong.join("\n"));
    assert!(followed > 30, "only {followed} links were found");
}
