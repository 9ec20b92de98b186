//! Apps of others: what they may not set, which files they do not get, and code that is not what it says.

use std::time::{Duration, Instant};

use e2e::host::{Setup, exagg, function, variant};
use e2e::{bomb, wait_for};

use super::World;
use super::swap::at_start;

const MINUTE: Duration = Duration::from_secs(60);

/// The pipeline's manifest with a database where nobody is.
fn app() -> Setup {
    Setup::new()
        .variable("postgres_url", "postgres://u:secret-word@127.0.0.1:1/x")
        .variable("postgres_host", "127.0.0.1:1")
}

/// Take out: `check_properties` in the trigger's config.rs, `App::check_names`, `Origin::resolve` in files.rs.
pub fn an_app_sets_and_sees_nothing_of_the_hosts(_: &World) {
    let library = "rdkafka = { \"plugin.library.paths\" = \"evil.so\" }\nheaders = false";
    let error = app().replace("headers = false", library).refused();
    assert!(error.contains("plugin.library.paths") && error.contains("[exagg.kafka]"), "{error}");
    assert!(!error.contains("evil.so"), "{error}");
    let error = app().configured("[exagg.kafka]\n\"plugin.library.paths\" = \"evil.so\"\n").refused();
    assert!(error.contains("plugin.library.paths"), "{error}");

    let named =
        "\n[[trigger.http]]\ncomponent = \"../../x\"\nroute = \"/x\"\n[component.\"../../x\"]\nsource = \"x\"\n";
    let error = app().append(named).refused();
    assert!(error.contains("../../x") && error.contains("is no id"), "{error}");

    let linked = app().replace("[component.dashboard]\n", "[component.dashboard]\nfiles = [\"passwd\"]\n");
    std::os::unix::fs::symlink("/etc/passwd", linked.folder().join("passwd")).unwrap();
    let error = linked.refused();
    assert!(error.contains("leads out of") && !error.contains("root:"), "{error}");

    let error = app().configured("[exagg.kafka]\n\"sasl.pasword\" = \"secret-word\"\n").refused();
    assert!(error.contains("sasl.pasword") && !error.contains("secret-word"), "{error}");
}

/// Take out: the comparison of the tag in engine/store.rs.
pub fn compiled_code_that_somebody_changed_is_made_anew(_: &World) {
    let mut host = app().argument("--no-migrate").components(&["dashboard"]).own_cache().start();
    wait_for("an answer", MINUTE, || e2e::http::try_get(host.listen, "/.well-known/spin/health"));
    let digest = |host: &e2e::host::Host| host.admin("/status").json()["stages"][0]["digest"].clone();
    let before = digest(&host);
    host.kill();
    let compiled = host.setup.folder().join(".spin/compiled");
    let mut changed = 0;
    for entry in std::fs::read_dir(&compiled).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap() != "key" {
            let mut bytes = std::fs::read(&path).unwrap();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            changed += 1;
        }
    }
    assert_eq!(changed, 1);
    host.restart();
    host.wait_for_log("is not what was compiled from its source here", MINUTE);
    wait_for("an answer", MINUTE, || e2e::http::try_get(host.listen, "/.well-known/spin/health"));
    assert_eq!(digest(&host), before);
}

/// Take out: the time-out in `try_out` of run.rs, or the comparison with `all`.
pub fn a_component_that_does_not_start_harms_its_own_stage(_: &World) {
    let setup = |ids: &[&str]| {
        let setup = app().argument("--no-migrate");
        let write = |name: &str, bytes: &[u8]| std::fs::write(setup.folder().join(name), bytes).unwrap();
        write("traps.wasm", &at_start("unreachable"));
        write("blocks.wasm", &at_start("(loop (br 0))"));
        let stage = |id: &str| {
            format!(
                "\n[[trigger.cron]]\nid = \"{id}-stage\"\ncomponent = \"{id}\"\ncron_expression = \"* * * * * *\"\n\
                 [component.{id}]\nsource = \"{id}.wasm\"\n"
            )
        };
        let stages = stage("traps") + &stage("blocks");
        setup.append(&stages).configured("[exagg]\ncall_seconds_max = 8\n").components(ids)
    };
    let mut host = setup(&["dashboard", "traps", "blocks"]).start();
    wait_for("an answer", MINUTE, || e2e::http::try_get(host.listen, "/.well-known/spin/health"));
    assert!(!host.log().contains("component blocks does not start"), "it was waited for");
    host.wait_for_log("component traps does not start", MINUTE);
    host.wait_for_log("component blocks does not start", MINUTE);
    wait_for("readiness to name both", MINUTE, || {
        let answer = host.admin("/readyz");
        let named = ["traps-stage", "blocks-stage"].iter().all(|stage| answer.body.contains(stage));
        (answer.status == 503 && named).then_some(())
    });
    drop(host);
    // Where all is known in time as well.
    let host = setup(&["dashboard", "traps"]).start();
    wait_for("an answer", MINUTE, || e2e::http::try_get(host.listen, "/.well-known/spin/health"));
    let error = setup(&["traps"]).refused();
    assert!(error.contains("component traps does not start"), "{error}");
}

/// The compilers of a host, by their process ids.
fn compilers(host: u32) -> Vec<u32> {
    let output =
        std::process::Command::new("ps").args(["--ppid", &host.to_string(), "-o", "pid=,args="]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let compilers = text.lines().filter(|line| line.contains("compile --seconds-max"));
    compilers.map(|line| line.split_whitespace().next().unwrap().parse().unwrap()).collect()
}

/// Processor time of a process, in hundredths of a second.
fn ticks(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // Behind the name, which is in brackets.
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

/// Take out: the signal in `confine` of engine/compiler.rs.
pub fn a_compiler_ends_with_its_host(_: &World) {
    let setup = app().argument("--no-migrate").components(&["dashboard"]);
    let mut host = setup.start();
    wait_for("an answer", MINUTE, || e2e::http::try_get(host.listen, "/.well-known/spin/health"));
    let bomb = host.setup.folder().join("bomb.wasm");
    std::fs::write(&bomb, bomb::component()).unwrap();
    let mut asker = std::process::Command::new(exagg());
    asker.args(["swap", "dashboard"]).arg(&bomb).arg("--state-dir").arg(host.setup.folder().join(".spin"));
    let mut asker = asker.spawn().unwrap();
    let compiler = wait_for("a compiler at work", MINUTE, || {
        compilers(host.pid()).into_iter().find(|compiler| ticks(*compiler) > 10)
    });
    // It does not end by itself.
    let signal = |name: &str| {
        let _ = std::process::Command::new("kill").args([name, &compiler.to_string()]).status();
    };
    signal("-STOP");
    host.kill();
    asker.wait().unwrap();
    let is_there = || std::path::Path::new(&format!("/proc/{compiler}")).exists();
    let deadline = Instant::now() + Duration::from_secs(5);
    while is_there() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    let outlived = is_there();
    signal("-KILL");
    assert!(!outlived);
}

/// Take out: `kill_on_drop` or the time-out in engine/compiler.rs.
pub fn code_that_takes_too_long_to_compile_costs_only_who_asked(_: &World) {
    let setup = app().argument("--no-migrate").components(&["dashboard"]);
    let host = setup.configured("[exagg]\ncompile_seconds_max = 12\n").start();
    wait_for("an answer", MINUTE, || e2e::http::try_get(host.listen, "/.well-known/spin/health"));
    let bomb = host.setup.folder().join("bomb.wasm");
    std::fs::write(&bomb, bomb::component()).unwrap();
    let state = host.setup.folder().join(".spin");
    let swap = |code: &std::path::Path| {
        let mut command = std::process::Command::new(exagg());
        command.args(["swap", "dashboard"]).arg(code).arg("--state-dir").arg(&state);
        command
    };
    // Nobody waits any more: the compiler ends.
    let mut asker = swap(&bomb).spawn().unwrap();
    wait_for("a compiler", MINUTE, || (compilers(host.pid()).len() == 1).then_some(()));
    asker.kill().unwrap();
    asker.wait().unwrap();
    wait_for("the compiler's end", Duration::from_secs(4), || compilers(host.pid()).is_empty().then_some(()));
    // Who waits is told why not, and nothing has changed.
    let output = swap(&bomb).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("cannot be compiled within"), "{error}");
    assert!(compilers(host.pid()).is_empty());
    let good = variant(&function("dashboard"), 7, host.setup.folder());
    let output = swap(&good).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(host.peak_memory() < 400 * 1024 * 1024, "{}", host.peak_memory());
}
