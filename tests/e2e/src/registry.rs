//! A real OCI registry (Debian's `docker-registry`), and artifacts put into it by hand.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{bound_command, free_port, wait_for};

pub const USER: &str = "exagg";
pub const PASSWORD: &str = "registry-word";
/// bcrypt of the password, as htpasswd writes it.
const HTPASSWD: &str = "exagg:$2b$04$f7D8pcfg.npUhYzN4boqAuPwDljVoV2d2wv2YAAHtvvvTBb0PQaaG\n";
const PROGRAM: &str = "/usr/bin/docker-registry";

pub struct Registry {
    folder: tempfile::TempDir,
    child: Child,
    /// host:port
    pub address: String,
}

/// Whether the machine has one.
pub fn is_installed() -> bool {
    Path::new(PROGRAM).exists()
}

pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

impl Registry {
    /// One that anybody may use.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// One that wants [`USER`] and [`PASSWORD`].
    pub fn start_private() -> Self {
        Self::start_with("auth: {htpasswd: {realm: test, path: HTPASSWD}}\n")
    }

    fn start_with(auth: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = format!("127.0.0.1:{}", free_port());
        let htpasswd = folder.path().join("htpasswd");
        std::fs::write(&htpasswd, HTPASSWD).unwrap();
        let config = format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"{address}\"}}\n{}",
            folder.path().join("data").display(),
            auth.replace("HTPASSWD", htpasswd.to_str().unwrap()),
        );
        let file = folder.path().join("config.yml");
        std::fs::write(&file, config).unwrap();
        let child = bound_command(PROGRAM)
            .arg("serve")
            .arg(&file)
            .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Self { folder, child, address };
        wait_for("the registry", Duration::from_secs(30), || TcpStream::connect(&registry.address).ok());
        registry
    }

    /// A folder with Docker's configuration file that knows the password.
    pub fn docker_config(&self) -> PathBuf {
        let folder = self.folder.path().join("docker");
        std::fs::create_dir_all(&folder).unwrap();
        let auth = crate::base64(format!("{USER}:{PASSWORD}").as_bytes());
        let config = json!({ "auths": { &self.address: { "auth": auth } } });
        std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
        folder
    }

    /// The file in which the registry keeps a blob.
    pub fn blob_file(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        let blobs = self.folder.path().join("data/docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }

    /// Puts a blob into a repository and gives its descriptor.
    pub fn put_blob(&self, repository: &str, media_type: &str, bytes: &[u8]) -> Value {
        let digest = digest(bytes);
        let (status, head) = self.request("POST", &format!("/v2/{repository}/blobs/uploads/"), "", b"");
        assert_eq!(status, 202, "{head}");
        let location = head.lines().find(|line| line.to_ascii_lowercase().starts_with("location:"));
        let location = location.unwrap().split_once(": ").unwrap().1.trim().to_owned();
        let path = location.strip_prefix(&format!("http://{}", self.address)).unwrap_or(&location);
        let path = format!("{path}{}digest={digest}", if path.contains('?') { '&' } else { '?' });
        let (status, head) = self.request("PUT", &path, "application/octet-stream", bytes);
        assert_eq!(status, 201, "{head}");
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    }

    /// Puts a manifest under a tag and gives its digest.
    pub fn put_manifest(&self, repository: &str, tag: &str, config: &Value, layers: &[Value]) -> String {
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({ "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers });
        let bytes = manifest.to_string().into_bytes();
        let (status, head) = self.request("PUT", &format!("/v2/{repository}/manifests/{tag}"), media_type, &bytes);
        assert_eq!(status, 201, "{head}");
        digest(&bytes)
    }

    /// A tag's manifest.
    pub fn manifest(&self, repository: &str, tag: &str) -> Value {
        let accept = "application/vnd.oci.image.manifest.v1+json";
        let text =
            self.exchange("GET", &format!("/v2/{repository}/manifests/{tag}"), &format!("accept: {accept}\r\n"), b"");
        serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    fn request(&self, method: &str, path: &str, media_type: &str, body: &[u8]) -> (u16, String) {
        let headers = if media_type.is_empty() { String::new() } else { format!("content-type: {media_type}\r\n") };
        let text = self.exchange(method, path, &headers, body);
        let head = text.split_once("\r\n\r\n").unwrap().0.to_owned();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), head)
    }

    fn exchange(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
            self.address,
            body.len()
        )
        .unwrap();
        stream.write_all(body).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
