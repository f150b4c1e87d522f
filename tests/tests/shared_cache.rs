//! The cache of one store in the builds of another, by a registry, a directory, or an image.

use mica_tests::command::Outcome;
use mica_tests::proxy::Kind;
use mica_tests::{Proxy, Registry, Scene};

/// Twelve steps, four of them RUNs; each RUN of the final stage says that it ran, in the build's output.
const DOCKERFILE: &str = "\
FROM base AS tools
RUN echo ran-tool && echo tool > /tool
RUN echo ran-extra && echo extra >> /tool
FROM base
ENV A=1
WORKDIR /app
COPY a a
RUN echo ran-one && cat a > one
COPY --from=tools /tool tool
RUN echo ran-two && cat tool one > two
USER 1000
LABEL x=y
COPY --chown=1000 b b
CMD [\"cat\", \"/app/two\"]
";

/// A store with the base image alone, and the context.
fn scene() -> Option<Scene> {
    let scene = Scene::with_base()?;
    scene.write("ctx/a", "content of a\n");
    scene.write("ctx/b", "content of b\n");
    scene.write("ctx/Dockerfile", DOCKERFILE);
    Some(scene)
}

fn built(scene: &Scene, args: &[&str]) -> Outcome {
    scene.rebuild(["-t", "app"]).args(args).ok()
}

fn root(scene: &Scene) -> serde_json::Value {
    scene.mica(["inspect", "app"]).ok().json()[0]["RootFS"].clone()
}

/// How many RUNs were executed: what they say is there, besides the Dockerfile's own text.
fn executed(outcome: &Outcome) -> usize {
    let said = outcome.stderr() + &outcome.stdout();
    let line = |line: &&str| {
        line.trim_end().ends_with("ran-one")
            || line.trim_end().ends_with("ran-two")
            || line.trim_end().ends_with("ran-tool")
            || line.trim_end().ends_with("ran-extra")
    };
    said.lines().filter(line).count()
}

#[test]
fn a_second_store_builds_from_the_cache_of_the_first() {
    let Some(registry) = Registry::start() else { return };
    let proxy = Proxy::before(&registry);
    let Some(first) = scene() else { return };
    let cache = proxy.name("app/cache:1");
    let directory = first.path("cache").display().to_string();
    let to = format!("--cache-to=type=registry,ref={cache},mode=max");
    let dest = format!("--cache-to=type=local,dest={directory},mode=max,compression=zstd");
    let outcome = built(&first, &[&to, &dest]);
    assert_eq!(executed(&outcome), 4, "{}", outcome.describe());
    let image = root(&first);
    // Again: nothing is sent but the manifest.
    proxy.clear_log();
    built(&first, &[&to, &dest]);
    assert_eq!(proxy.count("PATCH", Kind::Upload), 0, "{:?}", proxy.log());
    for from in [
        format!("--cache-from=type=registry,ref={cache}"),
        format!("--cache-from={cache}"),
        format!("--cache-from=type=local,src={directory}"),
    ] {
        let second = scene().expect("it was there before");
        let outcome = built(&second, &[&from]);
        assert_eq!(executed(&outcome), 0, "{from}\n{}", outcome.describe());
        assert_eq!(root(&second), image, "{from}");
        assert_eq!(
            second.mica(["run", "--rm", "app"]).ok().stdout(),
            "tool\nextra\ncontent of a\n"
        );
        // Its own cache has it from then on.
        assert_eq!(executed(&built(&second, &[])), 0);
        second.mica(["fsck"]).ok();
    }
    // What has changed is executed, and what did not is not; layers are fetched only for what is used.
    let third = scene().expect("it was there before");
    third.write("ctx/a", "other content\n");
    proxy.clear_log();
    let outcome = built(&third, &[&format!("--cache-from={cache}")]);
    assert_eq!(executed(&outcome), 2, "{}", outcome.describe());
    assert_eq!(
        third.mica(["run", "--rm", "app"]).ok().stdout(),
        "tool\nextra\nother content\n"
    );
    let manifest = registry.manifest("app/cache", "1");
    let layers = manifest["layers"].as_array().expect("a list").len();
    assert!(proxy.count("GET", Kind::Blob) < layers, "{:?}", proxy.log());
    third.is_clean();
}

#[test]
fn the_least_cache_has_the_image_s_own_steps() {
    let Some(first) = scene() else { return };
    let directory = first.path("cache").display().to_string();
    built(&first, &[&format!("--cache-to=type=local,dest={directory}")]);
    let second = scene().expect("it was there before");
    let outcome = built(&second, &[&format!("--cache-from=type=local,src={directory}")]);
    // Those of the other stage, which tell whether COPY --from is the same.
    assert_eq!(executed(&outcome), 2, "{}", outcome.describe());
    assert_eq!(root(&first), root(&second));
}

#[test]
fn an_image_carries_its_own_cache() {
    let Some(registry) = Registry::start() else { return };
    let Some(first) = scene() else { return };
    let name = registry.name("app:1");
    first
        .rebuild(["--push", "--cache-to=type=inline", "-t", &name])
        .ok()
        .says("pushed");
    let second = scene().expect("it was there before");
    let outcome = built(&second, &[&format!("--cache-from={name}")]);
    assert_eq!(executed(&outcome), 2, "{}", outcome.describe());
    // The image itself is pulled and run as any other.
    second.mica(["pull", "-q", &name]).ok();
    assert_eq!(
        second.mica(["run", "--rm", &name]).ok().stdout(),
        "tool\nextra\ncontent of a\n"
    );
}

#[test]
fn what_is_built_is_pushed() {
    let Some(registry) = Registry::start() else { return };
    let Some(scene) = scene() else { return };
    let names = [
        registry.name("a/b:1"),
        registry.name("a/b:2"),
        registry.name("c:1"),
        registry.name("d:1"),
    ];
    scene
        .rebuild(["--push", "-t", &names[0], "-t", &names[1]])
        .ok()
        .says("pushed");
    let output = format!("type=registry,name={},compression=zstd", names[2]);
    scene.rebuild(["--metadata-file=meta", "-o", &output]).ok();
    let output = format!("type=image,name={},push=true", names[3]);
    scene.rebuild(["-o", &output]).ok();
    assert_eq!(registry.tagged("a/b", "1"), registry.tagged("a/b", "2"));
    assert_eq!(registry.tagged("a/b", "1"), registry.tagged("d", "1"));
    let zstd = registry.manifest("c", "1");
    assert_eq!(
        zstd["layers"][1]["mediaType"],
        "application/vnd.oci.image.layer.v1.tar+zstd"
    );
    let meta: serde_json::Value = serde_json::from_str(&scene.read("meta")).expect("JSON");
    assert_eq!(
        meta["containerimage.digest"].as_str(),
        registry.tagged("c", "1").as_deref()
    );
    // What goes to a registry alone has no name here.
    let images = scene.images().join("\n");
    assert!(
        images.contains("a/b:1") && images.contains("/d:1") && !images.contains("/c:1"),
        "{images}"
    );
    // What cannot be pushed has no name here either.
    registry.kill();
    let lost = registry.name("lost:1");
    scene.rebuild(["--push", "-t", &lost]).fails().says("cannot push");
    assert!(!scene.images().join("\n").contains("lost"));
    scene.is_clean();
}

#[test]
fn a_bad_cache_is_told_and_not_used() {
    let Some(registry) = Registry::start() else { return };
    let Some(first) = scene() else { return };
    let cache = registry.name("cache:1");
    built(
        &first,
        &[&format!("--cache-to=type=registry,ref={cache},mode=max")],
    );
    for digest in registry.manifest("cache", "1")["layers"]
        .as_array()
        .expect("a list")
    {
        let path = registry.blob(digest["digest"].as_str().expect("a digest"));
        std::fs::write(path, "spoiled").expect("it can be written");
    }
    let second = scene().expect("it was there before");
    let outcome = built(
        &second,
        &[
            &format!("--cache-from={cache}"),
            "--cache-from=type=local,src=absent",
        ],
    );
    assert_eq!(executed(&outcome), 4, "{}", outcome.describe());
    assert!(
        outcome.has("a cached layer cannot be had") && outcome.has("absent"),
        "{}",
        outcome.describe()
    );
    // A cache that cannot be written is an error, unless that is to be ignored.
    registry.kill();
    let to = format!("--cache-to=type=registry,ref={cache}");
    first.rebuild([&to]).fails().says("the image is built");
    first
        .rebuild([&format!("{to},ignore-error=true")])
        .ok()
        .says("not written");
}

/// The files that are as they were keep the times that they had where the cache was made.
#[test]
fn a_fresh_clone_elsewhere_hits_although_a_file_has_changed() {
    let Some(first) = Scene::with_base() else { return };
    let sources = |scene: &Scene, code: &str| {
        scene.write("ctx/src/lock", "lock\n");
        scene.write("ctx/src/code", code);
        let text = "FROM base\nCOPY src /src\nRUN echo ran-one && cat /src/lock > /copy\n";
        scene.write("ctx/Dockerfile", text);
    };
    sources(&first, "one\n");
    let directory = first.path("cache").display().to_string();
    let to = format!("--cache-to=type=local,dest={directory},mode=max");
    assert_eq!(executed(&built(&first, &[&to])), 1);
    let second = Scene::with_base().expect("it was there before");
    sources(&second, "two, and longer\n");
    let outcome = built(&second, &[&format!("--cache-from=type=local,src={directory}")]);
    assert_eq!(executed(&outcome), 0, "{}", outcome.describe());
    assert_eq!(second.cat("app", "/src/code"), "two, and longer\n");
}
