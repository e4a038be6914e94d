//! The process that a configuration is compiled for, and the names that it is known by.

use crate::glob::Glob;

/// A process as rules see it.
#[derive(Debug, Clone, Default)]
pub struct Process {
    /// What `process` is matched against: the executable's base name, the one it was started by where that differs
    /// (`python3` for `python3.11`), and that of the script which it runs.
    pub names: Vec<String>,
    /// What `command` is matched against: the whole command line, words separated by a space.
    pub command: String,
}

impl Process {
    /// By its executable's path and its arguments, the first of which is the name that it was started by. The program
    /// behind a loader that was started by itself has its own name, and a script its file's beside its interpreter's.
    #[must_use]
    pub fn new(executable: Option<&[u8]>, words: &[&[u8]]) -> Self {
        let mut started = words;
        let mut names: Vec<String> = executable.and_then(base_name).into_iter().collect();
        if names.first().is_some_and(|name| is_loader(name)) {
            started = LOADER.what_is_run(words).and_then(|run| words.get(run.at..)).unwrap_or_default();
            names.clear();
        }
        names.extend(started.first().and_then(|word| base_name(word)));
        // A program that has written a title over its arguments begins it with its name (`redis-server 127.0.0.1:6379`).
        if let [title] = started
            && let Some(space) = title.iter().position(|byte| *byte == b' ')
        {
            names.extend(title.get(..space).and_then(base_name));
        }
        let interpreters = || INTERPRETERS.lines().map(Interpreter);
        let interpreter = interpreters().find(|interpreter| names.iter().any(|name| interpreter.is_named(name)));
        let script = interpreter.and_then(|interpreter| interpreter.what_is_run(started));
        names.extend(script.and_then(|run| base_name(run.text)));
        Self { names, command: String::from_utf8_lossy(&words.join(&b' ')).into_owned() }
    }

    /// Whether one of the entries of `process` means it.
    #[must_use]
    pub fn is_one_of(&self, globs: &[Glob]) -> bool {
        globs.iter().any(|glob| self.names.iter().any(|name| glob.matches(name)))
    }
}

/// What follows the last slash, but for slashes at the end.
fn base_name(path: &[u8]) -> Option<String> {
    let end = path.iter().rposition(|byte| *byte != b'/')?;
    let path = path.get(..=end).unwrap_or_default();
    let name = path.rsplit(|byte| *byte == b'/').next().filter(|name| !matches!(*name, b"." | b".."))?;
    Some(String::from_utf8_lossy(name).into_owned())
}

/// ld-linux-x86-64.so.2, ld-2.31.so, ld-musl-x86_64.so.1, started with a program's name: ld.so(8). Musl's is its libc, and
/// so called on some systems.
fn is_loader(name: &str) -> bool {
    name.starts_with("ld-") && name.contains(".so") || name == "libc.so"
}

/// A program that starts the file which its first argument names: how its name begins, of several names each with a bar
/// between, and its options. Digits, dots and dashes may follow the name; the options are as in getopt(3).
///
/// - `takes=`: letters with a value, in the same word or in the next; long options whose value is the next word
/// - `may-take=`: letters that may have a value in the same word alone
/// - `runs=`: letters and long options whose value is what is run: a module's name
/// - `text=`: letters and long options with which no file is run: text is, or nothing
/// - `plus`: options may begin with a plus as well
/// - `only`: nothing is run but what an option names
#[derive(Clone, Copy)]
struct Interpreter<'a>(&'a str);

/// ld.so(8).
const LOADER: Interpreter<'_> = Interpreter(
    "ld.so \
     takes=--library-path,--inhibit-rpath,--audit,--preload,--argv0,--glibc-hwcaps-prepend,--glibc-hwcaps-mask \
     text=--help,--version,--list,--verify,--list-diagnostics,--list-tunables",
);

/// By the manual pages: python(1), perlrun(1), ruby(1), node(1), php(1), bash(1), dash(1), zsh(1), ksh(1), fish(1), lua(1),
/// tclsh(1), expect(1), gawk(1), guile(1), R(1).
const INTERPRETERS: &str = "\
python|pypy takes=WX,--check-hash-based-pycs runs=m text=cVh?,--help,--version
perl takes=I may-take=CDFiMmx text=eEvVh,--help,--version
ruby takes=IrCEX,--encoding,--enable,--disable,--external-encoding,--internal-encoding,--backtrace-limit,--dump \
  may-take=FiKTWx text=eh,--help,--version
node|nodejs takes=rC,--require,--import,--conditions,--loader,--experimental-loader,--title,--dns-result-order,--env-file,\
--env-file-if-exists,--unhandled-rejections,--max-http-header-size,--disable-warning,--disable-proto,--icu-data-dir,--inspect-port,\
--inspect-publish-uid,--debug-port,--input-type,--experimental-default-type,--openssl-config,--tls-cipher-list,--tls-keylog,\
--diagnostic-dir,--redirect-warnings,--report-dir,--report-directory,--report-filename,--report-signal,--heapsnapshot-signal,\
--heapsnapshot-near-heap-limit,--cpu-prof-dir,--cpu-prof-interval,--cpu-prof-name,--heap-prof-dir,--heap-prof-interval,\
--heap-prof-name,--network-family-autoselection-attempt-timeout,--secure-heap,--secure-heap-min,--snapshot-blob,\
--trace-event-categories,--trace-event-file-pattern,--trace-require-module,--use-largepages,--v8-pool-size,--watch-path,\
--allow-fs-read,--allow-fs-write,--localstorage-file,--security-revert,--experimental-policy,--policy-integrity text=epihv,--eval,--print,--interactive,--help,--version,--test
php takes=cdzt,--define,--php-ini,--zend-extension,--docroot,--timing runs=fF,--file,--process-file \
  text=rBRESaihmv,--run,--server,--interactive,--help,--version,--info,--modules
bash|dash|sh|ksh|zsh|ash|mksh|yash|csh|tcsh takes=oO,--rcfile,--init-file,--emulate text=cs,--help,--version plus
fish takes=C,--init-command text=c,--help,--version
lua|luajit takes=elj may-take=O
tclsh|wish takes=-encoding
expect takes=cD runs=fb
awk|gawk|mawk may-take=podDL takes=FvilW,--assign,--field-separator,--include,--load runs=fE,--file,--exec text=e,--source,--help,--version only
guile takes=LlxeC,--language runs=s text=ch,--help,--version
R takes=dg,--encoding,--gui,--debugger runs=f,--file text=e,--help,--version only";

/// What an interpreter runs.
struct Run<'a> {
    /// The place of the word.
    at: usize,
    /// It, without the option's letter before it.
    text: &'a [u8],
}

impl<'a> Interpreter<'a> {
    fn is_named(self, name: &str) -> bool {
        let is_version = |rest: &str| rest.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-'));
        let mut own = self.0.split(' ').next().unwrap_or_default().split('|');
        own.any(|own| name.strip_prefix(own).is_some_and(is_version))
    }

    /// What is listed of options of a kind: letters in one, long options each by itself.
    fn listed(self, kind: &str) -> impl Iterator<Item = &'a str> {
        let lists = self.0.split(' ').filter_map(move |word| word.strip_prefix(kind)?.strip_prefix('='));
        lists.flat_map(|list| list.split(','))
    }

    fn has_letter(self, kind: &str, letter: u8) -> bool {
        self.listed(kind).any(|listed| !listed.starts_with('-') && listed.as_bytes().contains(&letter))
    }

    /// The first word that is neither an option nor an option's value, or what an option runs. Words begin with the
    /// interpreter's own name.
    fn what_is_run<'w>(self, words: &[&'w [u8]]) -> Option<Run<'w>> {
        let mut at = 1;
        loop {
            let word = *words.get(at)?;
            match word {
                // For a shell (bash(1)) it ends the options, as in `#!/bin/sh -`; for others it is what stands on standard input.
                b"-" if !self.0.ends_with(" plus") => return None,
                b"-" | b"--" => {
                    at += 1;
                    break;
                }
                [b'-', b'-', ..] => {
                    let equals = word.iter().position(|byte| *byte == b'=').and_then(|at| word.split_at_checked(at));
                    let runs = equals.filter(|(name, _)| self.listed("runs").any(|option| option.as_bytes() == *name));
                    if let Some(text) = runs.and_then(|(_, value)| value.get(1..)) {
                        return Some(Run { at, text });
                    }
                    let is = |kind: &str| self.listed(kind).any(|option| option.as_bytes() == word);
                    if is("text") {
                        return None;
                    }
                    at += 1;
                    if is("runs") {
                        break;
                    }
                    at += usize::from(is("takes"));
                }
                _ if self.listed("takes").any(|option| option.as_bytes() == word) => at += 2,
                [sign, letters @ ..] if *sign == b'-' || *sign == b'+' && self.0.ends_with(" plus") => {
                    at += 1;
                    let ends = |letter: &&u8| {
                        ["takes", "may-take", "runs", "text"].iter().any(|kind| self.has_letter(kind, **letter))
                    };
                    let Some(letter) = letters.iter().find(ends) else { continue };
                    let value = letters.iter().position(|one| one == letter).and_then(|place| letters.get(place + 1..));
                    let value = value.filter(|value| !value.is_empty());
                    if self.has_letter("text", *letter) {
                        return None;
                    }
                    match value {
                        Some(text) if self.has_letter("runs", *letter) => return Some(Run { at: at - 1, text }),
                        None if self.has_letter("runs", *letter) => break,
                        None if self.has_letter("takes", *letter) => at += 1,
                        _ => {}
                    }
                }
                _ if self.0.ends_with(" only") => return None,
                _ => break,
            }
        }
        words.get(at).filter(|text| **text != b"-").map(|text| Run { at, text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_process() {
        for (executable, words, names) in [
            ("/usr/bin/python3.11", "python3 app.py", "python3.11 python3 app.py"),
            ("/usr/bin/python3.11", "/venv/bin/python /venv/bin/gunicorn -w 4 app:x", "python3.11 python gunicorn"),
            ("/usr/bin/python3.11", "python3 -W ignore -u -m gunicorn app:x", "python3.11 python3 gunicorn"),
            ("/usr/bin/python3.11", "python3 -um gunicorn app:x", "python3.11 python3 gunicorn"),
            ("/usr/bin/python3.11", "python3 -mgunicorn app:x", "python3.11 python3 gunicorn"),
            ("/usr/bin/python3.11", "python3 -Wignore -X dev -- app.py", "python3.11 python3 app.py"),
            ("/usr/bin/python3.11", "python3 -c print() app.py", "python3.11 python3"),
            ("/usr/bin/python3.11", "python3 -Bc print() app.py", "python3.11 python3"),
            ("/usr/bin/python3.11", "python3 - app.py", "python3.11 python3"),
            ("/usr/bin/python3.11", "python3", "python3.11 python3"),
            ("/usr/bin/perl", "/usr/bin/perl -w /usr/local/bin/probe", "perl perl probe"),
            ("/usr/bin/perl", "perl -MLWP::Simple -I lib probe", "perl perl probe"),
            ("/usr/bin/perl", "perl -pi.eE probe", "perl perl probe"),
            ("/usr/bin/perl", "perl -lane print file", "perl perl"),
            ("/usr/bin/ruby3.1", "ruby -W:no-e -rsocket -C /tmp server.rb", "ruby3.1 ruby server.rb"),
            ("/usr/bin/dash", "/bin/sh -e /usr/bin/jmeter -n", "dash sh jmeter"),
            ("/usr/bin/dash", "/bin/sh - /usr/bin/socksify x", "dash sh socksify"),
            ("/usr/bin/dash", "sh -c jmeter", "dash sh"),
            ("/usr/bin/bash", "bash -lc jmeter", "bash bash"),
            ("/usr/bin/bash", "bash -Ceo pipefail +x /opt/run.sh", "bash bash run.sh"),
            ("/usr/bin/bash", "-bash", "bash -bash"),
            ("/bin/busybox", "sh /opt/run.sh", "busybox sh run.sh"),
            ("/usr/bin/node", "node --require x.js server.js", "node node server.js"),
            ("/usr/bin/node", "nodejs -r x.js --max-old-space-size=9 server.js", "node nodejs server.js"),
            ("/usr/bin/node", "node -pe 1+1 x", "node node"),
            ("/usr/bin/node", "node --env-file .env --no-warnings --dns-result-order ipv4first a.js", "node node a.js"),
            ("/usr/bin/ruby3.1", "ruby --disable gems --encoding utf-8 a.rb", "ruby3.1 ruby a.rb"),
            ("/usr/bin/php8.2", "php --define a=b --file=/srv/worker.php", "php8.2 php worker.php"),
            ("/usr/bin/lua5.4", "/usr/bin/lua5.4 -l socket ./probe.lua", "lua5.4 lua5.4 probe.lua"),
            ("/usr/bin/tclsh8.6", "tclsh /opt/probe.tcl x", "tclsh8.6 tclsh probe.tcl"),
            ("/usr/bin/tclsh8.6", "tclsh -encoding utf-8 probe.tcl", "tclsh8.6 tclsh probe.tcl"),
            ("/usr/bin/gawk", "gawk -pprofile.out -f ./probe.awk", "gawk gawk probe.awk"),
            ("/usr/bin/expect", "expect -f probe.exp", "expect expect probe.exp"),
            ("/usr/bin/gawk", "/usr/bin/gawk -F : -f ./probe.awk /etc/passwd", "gawk gawk probe.awk"),
            ("/usr/bin/mawk", "awk {print} /etc/passwd", "mawk awk"),
            ("/usr/bin/guile", "guile -e main -s ./probe.scm", "guile guile probe.scm"),
            ("/usr/lib/R/bin/exec/R", "/usr/lib/R/bin/exec/R --no-echo --file=probe.R --args x", "R R probe.R"),
            ("/usr/lib/R/bin/exec/R", "R --no-save", "R R"),
            ("/usr/bin/php8.2", "php -d a=b -f /srv/worker.php x", "php8.2 php worker.php"),
            ("/usr/bin/php8.2", "php -S 127.0.0.1:80 router.php", "php8.2 php"),
            ("/usr/bin/curl", "curl http://here/python3", "curl curl"),
            ("/usr/bin/shfmt", "shfmt file", "shfmt shfmt"),
            ("/usr/lib/ld-linux-x86-64.so.2", "/lib64/ld-linux-x86-64.so.2 /usr/bin/curl -s x", "curl"),
            ("/usr/lib/ld-linux-x86-64.so.2", "ld.so --library-path /a:/b --argv0 x ./nc y", "nc"),
            ("/lib/ld-musl-x86_64.so.1", "ld-musl-x86_64.so.1 -- /usr/bin/python3 a.py", "python3 a.py"),
            ("/lib/x86_64-linux-musl/libc.so", "/lib/ld-musl-x86_64.so.1 /opt/nc y", "nc"),
            ("/usr/lib/ld-linux-x86-64.so.2", "ld.so --list-tunables", ""),
            ("/usr/lib/ld-linux-x86-64.so.2", "ld.so", ""),
        ] {
            let split: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
            let process = Process::new(Some(executable.as_bytes()), &split);
            assert_eq!(process.names.join(" "), names, "{executable}: {words}");
            assert_eq!(process.command, words);
        }
    }

    #[test]
    fn base_names() {
        for (path, name) in [("/a/b", "b"), ("b", "b"), ("/a/b//", "b")] {
            assert_eq!(base_name(path.as_bytes()).as_deref(), Some(name));
        }
        assert!(["", "/", "/a/.."].iter().all(|path| base_name(path.as_bytes()).is_none()));
        assert_eq!(base_name(b"/a/\xff").as_deref(), Some("\u{fffd}"));
    }

    /// Debian's redis-server is a link, and writes a title over its arguments. Seen to fail: without its first word.
    #[test]
    fn titles() {
        let known = |words: &[&[u8]]| {
            Process::new(Some(b"/usr/bin/redis-check-rdb"), words).is_one_of(&[Glob::new("redis-server")])
        };
        assert!(known(&[b"/usr/bin/redis-server 127.0.0.1:6379"]) && known(&[b"redis-server *:6379"]));
        assert!(!known(&[b"redis-server2 *:6379"]) && !known(&[b"redis-sentinel *:6379"]));
    }
}
