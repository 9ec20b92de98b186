//! The host's image: built without an engine, through a registry and back, and run as a pod runs it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use e2e::host::exagg;
use e2e::registry::Registry;
use e2e::{bound_command, http, root, wait_for};
use serde_json::Value;

use super::World;

const MINUTE: Duration = Duration::from_secs(60);

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A blob of an OCI layout as JSON.
fn blob(layout: &Path, descriptor: &Value) -> (PathBuf, Value) {
    let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    let path = layout.join("blobs/sha256").join(digest);
    let json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap_or_default();
    (path, json)
}

/// The image, built, pushed, pulled again and unpacked: its root, and its configuration.
fn unpacked(registry: &Registry, folder: &Path) -> (PathBuf, Value) {
    let (built, back) = (folder.join("built"), folder.join("back"));
    run(Command::new("sh").arg(root().join("scripts/image.sh")).arg(&built));
    let place = format!("docker://{}/exagg:test", registry.address);
    let layout = |path: &Path| format!("oci:{}:exagg", path.display());
    run(Command::new("skopeo").args(["copy", "--dest-tls-verify=false", &layout(&built), &place]));
    run(Command::new("skopeo").args(["copy", "--src-tls-verify=false", &place, &layout(&back)]));
    let index: Value = serde_json::from_slice(&std::fs::read(back.join("index.json")).unwrap()).unwrap();
    let (_, manifest) = blob(&back, &index["manifests"][0]);
    let (_, config) = blob(&back, &manifest["config"]);
    let (layer, _) = blob(&back, &manifest["layers"][0]);
    let size = std::fs::metadata(&layer).unwrap().len() / (1024 * 1024);
    println!("image: {size} MiB compressed");
    let root = folder.join("root");
    std::fs::create_dir(&root).unwrap();
    let everything = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpzf"];
    run(Command::new("tar").arg("-C").arg(&root).args(everything).arg(&layer));
    (root, config["config"].clone())
}

/// A port that only a privileged process, or one with the capability, may listen on.
fn privileged_port() -> u16 {
    (600..1000).find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

/// Take out: `setcap` in `scripts/image.sh`, or `WorkingDir`.
pub fn it_runs_as_a_user_on_a_read_only_root_and_may_listen_below_1024(world: &World) {
    let registry = Registry::start();
    let (database, folder) = (world.postgres.database(), tempfile::tempdir_in("/var/tmp").unwrap());
    let (image, config) = unpacked(&registry, folder.path());
    let user = config["User"].as_str().unwrap();
    assert_eq!(user, "10001:10001");
    assert!(!image.join("bin").exists() && !image.join("usr/bin").exists(), "there is no shell to go to");
    assert!(
        run(Command::new("/usr/sbin/getcap").arg(image.join("usr/local/bin/exagg"))).contains("cap_net_bind_service")
    );
    let setup = world.setup(&database, "image");
    setup.write();
    let app = format!("{}/app:1", registry.address);
    run(Command::new(exagg()).args(["registry", "push", &app, "--insecure", "--from"]).arg(setup.folder()));
    let runtime = format!(
        "[exagg]\ninsecure_registries = [\"{}\"]\nadmin = \"127.0.0.1:{}\"\n",
        registry.address,
        e2e::free_port()
    );
    std::fs::write(image.join("runtime-config.toml"), runtime).unwrap();
    let port = privileged_port();
    let listen = format!("0.0.0.0:{port}");
    // A pod in small: its own mounts, the root read-only but for the volume at /state.
    let pod = "mount --bind \"$0\" \"$0\" && mount -o remount,ro,bind \"$0\" && mount -t tmpfs -o uid=10001 state \"$0/state\" \
               && exec unshare --root \"$0\" --wd \"$1\" --setgid \"$2\" --setuid \"$2\" \"${@:3}\"";
    let program = config["Entrypoint"][0].as_str().unwrap();
    let log = folder.path().join("log");
    let output = std::fs::File::create(&log).unwrap();
    let mut command = bound_command("unshare");
    command
        .args(["--mount", "bash", "-c", pod])
        .arg(&image)
        .args([
            config["WorkingDir"].as_str().unwrap(),
            user.split(':').next().unwrap(),
            program,
            "up",
            "--listen",
            &listen,
            "-f",
            &app,
            "--runtime-config-file",
            "/runtime-config.toml",
        ])
        .args(["--component-id", "dashboard"])
        .env_clear()
        .envs(config["Env"].as_array().unwrap().iter().map(|pair| pair.as_str().unwrap().split_once('=').unwrap()))
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("SPIN_VARIABLE_POSTGRES_URL", &database.url)
        .env("SPIN_VARIABLE_POSTGRES_HOST", &database.host)
        .env("SPIN_HTTP_LISTEN_ADDR", &listen)
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output);
    let mut child = command.spawn().unwrap();
    let ready = wait_for("the pod's readiness", MINUTE, || {
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "{ended:?}: {}", std::fs::read_to_string(&log).unwrap());
        http::try_get(port, "/.well-known/exagg/ready").filter(|answer| answer.status == 200)
    });
    assert_eq!(ready.status, 200);
    assert_eq!(http::get(port, "/api/streams").status, 200);
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let user = status.lines().find(|line| line.starts_with("Uid:")).unwrap();
    assert!(user.split_whitespace().skip(1).all(|uid| uid == "10001"), "{user}");
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    let ended = wait_for("the pod's end", MINUTE, || child.try_wait().unwrap());
    assert!(ended.success(), "{ended}: {}", std::fs::read_to_string(&log).unwrap());
}
