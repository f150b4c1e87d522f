//! `SOURCE_DATE_EPOCH`: the same image from any directory, under any umask, by anyone.

use std::collections::BTreeSet;

use mica_tests::Scene;
use mica_tests::archive::sha256;

const DOCKERFILE: &str = "\
FROM base AS make
ARG SOURCE_DATE_EPOCH
RUN mkdir -p /out/sub && echo made > /out/sub/file && ln /out/sub/file /out/link && ln -s sub /out/to
RUN chown -R user:extra /out/sub && mkfifo /out/pipe && touch -d @1000000000 /out/old
FROM base
WORKDIR /srv/app
COPY . .
COPY --from=make /out ./out
RUN rm /etc/group && echo $((1 + 1)) > two
CMD [\"sh\"]
";

/// A checkout in a directory of its own, under its own umask, and the image that it gives as an archive.
fn build(scene: &Scene, directory: &str, umask: &str) -> (String, Vec<u8>, serde_json::Value) {
    let script = format!(
        "umask {umask}; mkdir -p {directory}/src/deep; cd {directory}
         echo code > src/deep/code; echo run > src/tool; chmod +x src/tool; ln -s deep src/link
         printf %s '{DOCKERFILE}' > Dockerfile
         SOURCE_DATE_EPOCH=1500000000 mica build --progress=plain --metadata-file {top}/meta.json -t made \
            --output type=image,rewrite-timestamp=true \
            --output type=oci,dest={top}/made.tar,compression=gzip,rewrite-timestamp=true .
         cd {top}; rm -rf {directory}",
        directory = scene.path(directory).display(),
        top = scene.directory().display(),
    );
    scene.shell(&script).ok();
    let archive = std::fs::read(scene.path("made.tar")).expect("the archive was written");
    let metadata = serde_json::from_str(&scene.read("meta.json")).expect("it is JSON");
    (sha256(&archive), archive, metadata)
}

#[test]
fn clones_umasks_and_users_give_one_digest() {
    let mut digests = BTreeSet::new();
    let mut archives = BTreeSet::new();
    let mut built = 0;
    for (round, directory, umask) in [(0, "here", "022"), (1, "else/where", "077")] {
        for scene in Scene::everyone() {
            let (archive, _, metadata) = build(&scene, directory, umask);
            digests.insert(metadata["containerimage.digest"].to_string());
            archives.insert(archive);
            built += 1;
            if round == 0 {
                holds_no_later_time(&scene);
            }
            scene.is_clean();
        }
    }
    let Some(_) = std::num::NonZero::new(built) else {
        return;
    };
    assert_eq!(digests.len(), 1, "{built} builds gave {digests:?}");
    assert_eq!(archives.len(), 1, "{built} builds gave {archives:?}");
}

/// Neither the image, nor its history, nor its own layers know a time after the epoch.
fn holds_no_later_time(scene: &Scene) {
    const EPOCH: &str = "2017-07-14T02:40:00Z";
    let image = &scene.mica(["inspect", "made"]).ok().json()[0];
    assert_eq!(image["Created"], EPOCH);
    let history = scene
        .mica(["history", "--no-trunc", "--format", "json", "made"])
        .ok();
    for entry in history.json_lines() {
        assert_eq!(entry["CreatedAt"], EPOCH, "{entry}");
    }
    scene
        .mica(["save", "--format", "oci-dir", "-o", "layout", "made"])
        .ok();
    // The layers of the base come first and stay as they are: here there is one.
    let listed = scene
        .shell(
            "cd layout/blobs/sha256; for f in *; do tar --utc --full-time -tvf $f 2>/dev/null || true; done",
        )
        .ok();
    let listed = listed.stdout();
    let of = |name: &str| {
        let line = listed.lines().find(|line| line.contains(name));
        line.unwrap_or_else(|| panic!("no {name} in\n{listed}"))
            .to_owned()
    };
    for name in [
        "srv/app/src/deep/code",
        "srv/app/two",
        "srv/app/out/to ->",
        "etc/.wh.group",
    ] {
        let line = of(name);
        let late = ["2018", "2019", "202", "203"]
            .iter()
            .any(|year| line.contains(&format!(" {year}")));
        assert!(!late, "{line}");
    }
    assert!(
        of("srv/app/out/old").contains("2001-09-09"),
        "an older time stays"
    );
}

#[test]
fn without_rewriting_files_keep_their_times() {
    let Some(scene) = Scene::with_base() else { return };
    scene.write("ctx/f", "x");
    let dockerfile = "ARG SOURCE_DATE_EPOCH=1000000000\nFROM base\nCOPY f /f\n";
    scene.build(dockerfile, ["-t", "dated"]).ok();
    let image = &scene.mica(["inspect", "dated"]).ok().json()[0];
    assert_eq!(
        image["Created"], "2001-09-09T01:46:40Z",
        "of an ARG before the first FROM"
    );
    scene.mica(["ls", "-l", "dated", "/f"]).ok().lacks("2001");
    scene
        .rebuild(["-t", "given", "--build-arg", "SOURCE_DATE_EPOCH=0"])
        .ok();
    let image = &scene.mica(["inspect", "given"]).ok().json()[0];
    assert_eq!(image["Created"], "1970-01-01T00:00:00Z", "the command line wins");
    scene
        .rebuild(["--build-arg", "SOURCE_DATE_EPOCH=yesterday"])
        .exits(1)
        .says("SOURCE_DATE_EPOCH=yesterday is not a number of seconds");
}
