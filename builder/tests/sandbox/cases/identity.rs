//! Who the command is, and what it may do.

use std::fs;
use std::os::unix::fs::MetadataExt;

use mica_builder::sandbox::{
    Capabilities, Credentials, Failure, IdMode, SandboxError, Spec, Step, UserNs, enter,
};

use crate::world::{World, run, succeed};

pub fn as_user(mut spec: Spec, uid: u32, gid: u32, groups: &[u32]) -> Spec {
    spec.user = Credentials {
        uid,
        gid,
        groups: groups.to_vec(),
    };
    spec
}

pub fn ids(world: &World) {
    let entered = world.entered.as_ref().unwrap();
    assert_eq!(
        entered.mode,
        if world.rootless {
            IdMode::Subordinate
        } else {
            IdMode::Root
        }
    );
    assert!(entered.can_map(0) && entered.can_map(65534) && entered.gids.can_map(33));

    let script = "id -u; id -g; id -G; touch /tmp/f; chown 101:102 /tmp/f 2>&- || echo refused";
    assert_eq!(world.sh(script), "0\n0\n0\n");
    let owned = fs::metadata(world.rootfs().join("tmp/f")).unwrap();
    assert_eq!((owned.uid(), owned.gid()), (101, 102));
    fs::remove_file(world.rootfs().join("tmp/f")).unwrap();
    let user = as_user(world.script(script), 33, 34, &[44, 55]);
    assert_eq!(succeed(&user), "33\n34\n34 44 55\nrefused\n");
}

pub fn ids_beyond_the_map(world: &World) {
    let error = run(&as_user(world.script("true"), 4_000_000_000, 0, &[])).unwrap_err();
    let SandboxError::Setup(Failure {
        step: Step::User,
        subject,
        hint,
        ..
    }) = error
    else {
        panic!("{error:?}");
    };
    assert_eq!(subject, "4000000000:0");
    assert!(hint.unwrap().contains("/etc/subuid"));
}

pub fn capabilities(world: &World) {
    let sets = |spec: &Spec| succeed(spec).replace("Cap", "").replace(":\t0000000", " ");
    let script = world.script("grep Cap /proc/self/status");
    assert_eq!(
        sets(&script),
        "Inh 000000000\nPrm 0a80425fb\nEff 0a80425fb\nBnd 0a80425fb\nAmb 000000000\n"
    );
    assert_eq!(
        sets(&as_user(script, 33, 33, &[])),
        "Inh 000000000\nPrm 000000000\nEff 000000000\nBnd 0a80425fb\nAmb 000000000\n"
    );
    let refused = world.script("mount -t tmpfs none /tmp || umount /proc/sys");
    assert!(!run(&refused).unwrap().exit.success());
}

pub fn all_capabilities(world: &World) {
    let mut spec = world.script("mount -t tmpfs none /tmp && echo free");
    spec.capabilities = Capabilities::All;
    assert_eq!(succeed(&spec), "free\n");
}

pub fn no_subordinate_ids(_: &World) {
    let error = enter(UserNs::Subordinate).unwrap_err();
    assert!(matches!(&error, SandboxError::NoSubordinateIds { user, .. } if user == "micatest"));
    let both = "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 micatest";
    assert_eq!(error.remedy().unwrap(), both);
    // There is a way without them.
    assert_eq!(IdMode::detect().unwrap(), IdMode::Single);
    assert!(matches!(enter(UserNs::Inherit), Err(SandboxError::NotPrivileged)));
}
