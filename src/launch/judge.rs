//! What becomes of the library in a program, and what the supervisor can do with it.

use std::env;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::executable::{self, FOR_THIS_HOST, Image, Libc, Outlook, TAKES_EFFECT, Verdict};
use crate::imports::{self, Reach};
use crate::library::Library;
use crate::privilege::{self, Caller, Elevation, Rights, elevation};
use crate::program::{End, Program, is_shell, program_at};
use crate::root::Root;
use crate::{blocks, neighbours};

/// A server that makes a new environment for programs that it starts.
struct Clearing {
    names: &'static [&'static str],
    /// Whether it makes connections in its own process as well.
    connects_itself: bool,
    starts: &'static str,
    /// What helps where the supervisor cannot be had.
    instead: &'static str,
}

/// Each was run: what it starts has no library.
const CLEARING: &[Clearing] = &[
    Clearing {
        names: &["dovecot"],
        connects_itself: false,
        starts: "but its services (imap-login, lmtp, ...) start without it",
        instead: "name LD_PRELOAD and the SOCKOPT_ variables in its import_environment",
    },
    Clearing {
        names: &["postfix"],
        connects_itself: false,
        starts: "but its services (smtp, smtpd, ...) start without it",
        instead: "use the sysctls net.ipv4.tcp_keepalive_* and tcp_retries2",
    },
    Clearing {
        names: &["nginx"],
        connects_itself: true,
        starts: "in an upgrade (SIGUSR2) the new one starts without it",
        instead: "",
    },
    Clearing {
        names: &["apache2", "httpd"],
        connects_itself: true,
        starts: "CGI programs start without it",
        instead: "",
    },
    Clearing {
        names: &["lighttpd", "mini_httpd", "webfsd"],
        connects_itself: true,
        starts: "CGI programs start without its configuration",
        instead: "",
    },
    Clearing {
        names: &["service"],
        connects_itself: false,
        starts: "but it starts init scripts without it",
        instead: "put sockopt run into the init script, or start the program itself",
    },
    Clearing {
        names: &["sshd", "dropbear"],
        connects_itself: true,
        starts: "its sessions start without it",
        instead: "",
    },
    Clearing { names: &["cron", "crond"], connects_itself: true, starts: "its jobs start without it", instead: "" },
];

/// What is started in another root, where all paths mean other files.
fn in_root(name: &str, root: &Path, program: Option<&(PathBuf, Image)>, library: &Library) -> Verdict {
    let is_for_another = |image: &Image| image.architecture != library.image.architecture;
    if let Some((file, image)) = program.filter(|(_, image)| image.is_past_every_library() || is_for_another(image))
        && let Some(verdict) = image.verdict(&file.display().to_string(), library.image.architecture, || false)
    {
        return verdict;
    }
    let below = Root::open(root).filter(|below| below.file(&library.path).is_some());
    let root = root.display();
    if let Some(below) = below {
        return match library.lacks(&below, program.map(|(_, image)| image)) {
            None => Verdict::unknown(format!(
                "{name} starts a program in the root directory {root}, where sockopt does not judge it"
            )),
            Some(missing) => Verdict::cannot(
                format!(
                    "{name} starts a program in the root directory {root}, which has no {missing} for {}: the loader may end the program at once",
                    library.path.display()
                ),
                "put below that directory what the library needs",
            )
            .for_supervisor(),
        };
    }
    Verdict::cannot(
        format!(
            "{name} starts a program in the root directory {root}, which has no {}: the loader does not find the library",
            library.path.display()
        ),
        "put the library at the same path below that directory",
    )
    .for_supervisor()
}

impl Program {
    /// What keeps the supervisor from it, if anything does.
    pub fn supervised(&self) -> Verdict {
        let name = self.name();
        if let End::WithoutLibrary(why, instead, false) = &self.end {
            return Verdict::cannot((*why).to_owned(), *instead);
        }
        if let Some((name, image)) = self.executed().filter(|(_, image)| !image.is_for_this_machine()) {
            return Verdict::cannot(
                format!(
                    "{name} is for {}: the supervisor handles only programs for the architecture of this host",
                    image.architecture
                ),
                image.instead(FOR_THIS_HOST),
            );
        }
        let elevated = || {
            self.wrappers
                .iter()
                .find_map(|wrapper| Program::new(wrapper.clone(), &[]).elevated(""))
                .or_else(|| self.elevated(""))
        };
        if !Caller::this().may_filter_with_rights()
            && elevated().is_some_and(|verdict| verdict.outlook == Outlook::Cannot)
        {
            return Verdict::cannot(
                format!(
                    "{name} gains privileges from its file (setuid, setgid or capabilities): under a supervisor without CAP_SYS_ADMIN it would not gain them"
                ),
                "start sockopt as the user as whom the program should run, or as root",
            );
        }
        Verdict::works(format!("{name}: the supervisor sees its calls and sets the options"))
    }

    /// Whether it is the supervisor's, whichever library there is.
    pub fn is_for_supervisor(&self) -> bool {
        self.is_past_every_library()
            && matches!(&self.end, End::Program(image) if image.is_for_this_machine())
            && self.wrappers.is_empty()
            && self.cleared.is_none()
            && self.elevated("").is_none()
    }

    /// What becomes of the library in it.
    pub fn verdict(&self, library: &Library) -> Verdict {
        let name = self.name();
        if let Some((who, how)) = &self.cleared {
            return Verdict::cannot(
                format!("{who} {how}: {name} is started without the library"),
                format!("put sockopt run after {who}: {who} ... sockopt run ... -- PROGRAM"),
            )
            .for_supervisor();
        }
        if let Some(verdict) = self.wrappers.iter().find_map(|wrapper| self.stopped_by(wrapper, library)) {
            return verdict;
        }
        let is_its_own_reason = matches!(self.end, End::WithoutLibrary(..));
        if let Some(verdict) = self.elevated(&name).filter(|_| !is_its_own_reason) {
            return verdict;
        }
        let unknown =
            |what: &str| Verdict::unknown(format!("{name} {what}: it is not known whether the library takes effect"));
        let image = match &self.end {
            End::Program(image) => image,
            End::Foreign => return unknown("is neither an ELF file nor a script"),
            End::Unreadable => return unknown("cannot be read"),
            End::Unclear => {
                return Verdict::unknown(format!(
                    "{name} is called in a way that sockopt does not know: the program that it starts is not judged"
                ));
            }
            End::Missing(program) => {
                return Verdict::unknown(format!("{}, which {name} should start, was not found", program.display()));
            }
            End::InRoot(root, program) => return in_root(&name, root, program.as_ref(), library),
            End::WithoutLibrary(why, instead, is_supervised) => {
                let verdict = Verdict::cannot((*why).to_owned(), *instead);
                return if *is_supervised { verdict.for_supervisor() } else { verdict };
            }
        };
        if let Some(who) = self.stopped_sanitizer() {
            let (variable, setting) = (neighbours::SANITIZER_VARIABLE, neighbours::SANITIZER_SETTING);
            return Verdict::cannot(
                format!("{who} changes {variable}: {name}, which is built with AddressSanitizer, would not start with a library in front of its runtime"),
                format!("add {setting} to {variable} there, as in {variable}=detect_leaks=0:{setting}"),
            )
            .for_supervisor();
        }
        let calls_sockets = || {
            let Ok(cache) = blocks::open(&self.file) else { return false };
            let calls = executable::symbols(&cache, false).unwrap_or_default();
            ["connect", "listen", "accept", "accept4"].iter().any(|call| calls.contains(*call))
        };
        let verdict = image.verdict(&name, library.image.architecture, calls_sockets);
        match verdict {
            Some(verdict)
                if is_shell(&self.words) && image.is_static() && image.architecture == library.image.architecture =>
            {
                Verdict::partly(
                    format!("{}; dynamically linked programs that it starts get the library", verdict.why),
                    "if its own connections matter, use a dynamically linked shell",
                )
                .for_supervisor()
            }
            Some(verdict) => verdict,
            None => self.unreadable(&name, library).unwrap_or_else(|| {
                let verdict = self.beside_libc(&name, image, library);
                let ends = verdict.outlook == Outlook::Cannot;
                let verdict = self.within_reach(&name, image, if ends { verdict.for_supervisor() } else { verdict });
                self.with_other_environment(self.as_another_user(&name, verdict))
            }),
        }
    }

    /// What of the program the library sees, where it is loaded into it.
    fn within_reach(&self, name: &str, image: &Image, verdict: Verdict) -> Verdict {
        const SEEN: &str = "the functions that the library interposes (connect, listen, accept, sendto, ...)";
        const INSTEAD: &str =
            "use the program's own settings for that, or the sysctls net.ipv4.tcp_keepalive_* and tcp_retries2";
        let Some(linked) = verdict.why.strip_suffix(TAKES_EFFECT).filter(|_| verdict.outlook == Outlook::Works) else {
            return verdict;
        };
        let environment = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        let first: Vec<PathBuf> = environment
            .as_bytes()
            .split(|byte| b":;".contains(byte))
            .filter(|folder| !folder.is_empty())
            .map(|folder| OsStr::from_bytes(folder).into())
            .collect();
        let what_it_starts =
            |starts: bool| if starts { "; dynamically linked programs that it starts get the library" } else { "" };
        match imports::reach(&self.file, image, &first) {
            Reach::Calls => verdict,
            Reach::Loads => Verdict::works(format!(
                "{linked}, and loads code while it runs: the library takes effect in the code that calls {SEEN}"
            )),
            Reach::LoadsOrMakes => Verdict::unknown(format!(
                "{name} calls none of {SEEN}, contains system calls, and loads code while it runs: it is not known whether the library sees its connections; --by supervisor sees them"
            )),
            Reach::Nothing { starts } => Verdict::works(format!(
                "{linked}, and calls none of {SEEN}: no options are set in it{}",
                what_it_starts(starts)
            )),
            Reach::Makes { starts } => Verdict::partly(
                format!(
                    "{name} calls none of {SEEN}, and contains system calls: no preloaded library sees its connections{}",
                    what_it_starts(starts)
                ),
                INSTEAD,
            )
            .for_supervisor(),
            Reach::Asks => Verdict::partly(
                format!(
                    "{name} calls none of {SEEN}, but syscall(2): no preloaded library would see connections that it makes so"
                ),
                INSTEAD,
            )
            .for_supervisor(),
            Reach::Unknown(file) => Verdict::unknown(format!(
                "{linked}, and needs {file}, which was not found or cannot be read: it is not known whether the library takes effect"
            )),
        }
    }

    /// Where root starts a setuid program that becomes another user, and then starts itself, the file gives it privileges again (exim).
    fn as_another_user(&self, name: &str, verdict: Verdict) -> Verdict {
        let mut caller = Caller::this();
        caller.no_new_privileges |= self.no_new_privileges;
        let is_given_back = |rights: Rights| caller.user == 0 && rights.sets_user(caller);
        match verdict.outlook {
            Outlook::Works if !self.has_other_rights && Rights::of(&self.file).is_some_and(is_given_back) => {
                Verdict::unknown(format!(
                    "{}; but {name} is setuid: if it becomes another user and executes itself again, the loader ignores LD_PRELOAD; --by supervisor covers that",
                    verdict.why
                ))
            }
            _ => verdict,
        }
    }

    /// What it starts without LD_PRELOAD, of its own accord.
    fn with_other_environment(&self, verdict: Verdict) -> Verdict {
        // An init script has the name of what it starts, and does that as it is told.
        let service = self.script.as_deref().filter(|script| script.ends_with("service"));
        let name = service.or(self.script.is_none().then_some(&*self.file)).and_then(Path::file_name);
        let name = name.unwrap_or_default();
        let Some(server) = CLEARING.iter().find(|server| server.names.iter().any(|known| name == *known)) else {
            return verdict;
        };
        match verdict.outlook {
            Outlook::Works if server.connects_itself => {
                let why = format!("{}; {}; --by supervisor covers that too", verdict.why, server.starts);
                Verdict { why, ..verdict }
            }
            Outlook::Works => {
                Verdict::partly(format!("{}; {}", verdict.why, server.starts), server.instead).for_supervisor()
            }
            _ => verdict,
        }
    }

    /// What keeps the library from all that a wrapper starts: its own rights, or a loader that ends it.
    fn stopped_by(&self, wrapper: &Path, library: &Library) -> Option<Verdict> {
        let own = Program::new(wrapper.to_owned(), &[]);
        let name = wrapper.display().to_string();
        let ended = || match program_at(wrapper) {
            Ok(End::Program(image)) if image.loader.is_some() && image.architecture == library.image.architecture => {
                Some(own.beside_libc(&name, &image, library))
            }
            _ => None,
        };
        own.elevated(&name).or_else(ended).filter(|verdict| verdict.outlook == Outlook::Cannot)
    }

    /// Whether the user that a wrapper starts it as cannot be expected to get at the library.
    fn unreadable(&self, name: &str, library: &Library) -> Option<Verdict> {
        let user = self.user.as_deref()?;
        if privilege::may_read(user, &library.path) {
            return None;
        }
        let (user, path) = (user.display(), library.path.display());
        Some(Verdict::partly(
            format!(
                "{name} is started as user {user}, who may not read {path}: the loader starts it without the library"
            ),
            "move the library to a directory that everybody may read, for example /usr/local/lib",
        ))
    }

    fn elevated(&self, name: &str) -> Option<Verdict> {
        let rights = Rights::of(&self.file)?;
        if self.has_other_rights {
            return rights.may_elevate().then(|| {
                Verdict::unknown(format!(
                    "{name} gains privileges, and is started with other privileges than yours: it is not known whether the library takes effect"
                ))
            });
        }
        let mut caller = Caller::this();
        caller.no_new_privileges |= self.no_new_privileges;
        let elevation = elevation(caller, rights)?;
        // A static one has no loader that could ignore it.
        let loses = match &self.end {
            End::Program(image) if image.is_static() => "and it is statically linked: no library can be preloaded",
            _ => "so the loader ignores LD_PRELOAD",
        };
        let why = match elevation {
            Elevation::User(user) => {
                format!("{name} is setuid: it runs as user {user}, {loses}")
            }
            Elevation::Group(group) => {
                format!("{name} is setgid: it runs as group {group}, {loses}")
            }
            Elevation::Capabilities => format!("{name} has file capabilities, {loses}"),
            Elevation::Caller => {
                format!("the effective user or group is not the real one, so the loader of {name} ignores LD_PRELOAD")
            }
        };
        let instead = match elevation {
            Elevation::User(0) => "become root first: sudo sockopt run ... -- PROGRAM",
            Elevation::User(_) => "become that user first: sudo -u USER sockopt run ... -- PROGRAM",
            Elevation::Group(_) => "take that group first: sg GROUP -c \"sockopt run ... -- PROGRAM\"",
            Elevation::Capabilities => {
                "give it ambient capabilities instead of the file's: AmbientCapabilities= of systemd, setpriv --ambient-caps"
            }
            Elevation::Caller => "start sockopt as the user as whom the program should run",
        };
        let verdict = Verdict::cannot(why, instead);
        // As for root the program keeps its rights under the supervisor.
        Some(if caller.may_filter_with_rights() { verdict.for_supervisor() } else { verdict })
    }

    /// Holds what the library needs against the libc that the program's loader belongs to.
    fn beside_libc(&self, name: &str, image: &Image, library: &Library) -> Verdict {
        let loader = image.loader_path().unwrap_or(Path::new(""));
        match image.libc() {
            Some(Libc::Glibc) => library.beside_glibc(name, self.folders(image).as_deref(), loader),
            Some(Libc::Musl) => library.beside_musl(name, loader),
            None => Verdict::unknown(format!(
                "{name} has the loader {}, which is neither glibc's nor musl's: it is not known whether it loads the library",
                loader.display()
            )),
        }
    }

    /// Folders where the loader looks for libraries before its own; None if that cannot be told.
    fn folders(&self, image: &Image) -> Option<Vec<PathBuf>> {
        let origin = self.file.canonicalize().ok()?.parent()?.display().to_string();
        let named = image.search.as_ref()?.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin);
        let environment = env::var_os("LD_LIBRARY_PATH").unwrap_or_default().into_string().ok()?.replace(';', ":");
        let folders = named.split(':').chain(environment.split(':')).filter(|folder| !folder.is_empty());
        let folders: Vec<PathBuf> = folders.map(PathBuf::from).collect();
        folders.iter().all(|folder| !folder.as_os_str().as_bytes().contains(&b'$')).then_some(folders)
    }
}
