use proptest::prelude::*;

use super::*;

mod buildkit;
mod errors;

/// The instructions of the last stage.
fn instructions(text: &str) -> Vec<Instruction> {
    let mut file = match parse(text.as_bytes()) {
        Ok(file) => file,
        Err(error) => panic!("{}", error.render("Dockerfile", text.as_bytes())),
    };
    file.stages.pop().expect("a stage").instructions
}

/// The one instruction after FROM.
fn one(text: &str) -> Instruction {
    let [instruction] = instructions(&format!("FROM x\n{text}")).try_into().expect("one");
    instruction
}

fn texts(words: &[Word]) -> Vec<&str> {
    words.iter().map(|word| word.text.as_str()).collect()
}

#[test]
fn stages() {
    let text = "# syntax=docker/dockerfile:1\n# check=skip=all\nARG A=1 B\nfrom --platform=$P x:$A \
                as Base\nRUN a\nFROM base\n";
    let file = parse(text.as_bytes()).expect("valid");
    assert_eq!(
        file.directives.syntax.expect("syntax").text,
        "docker/dockerfile:1"
    );
    assert_eq!(file.directives.check.expect("check").text, "skip=all");
    let [global] = file.global_args.as_slice() else {
        panic!("one ARG")
    };
    assert_eq!(global.args[0].default.as_ref().expect("default").text, "1");
    assert_eq!(
        (global.args[1].name.text.as_str(), &global.args[1].default),
        ("B", &None)
    );
    let [base, last] = file.stages.as_slice() else {
        panic!("two stages")
    };
    assert_eq!(base.base.text, "x:$A");
    assert_eq!(base.platform.as_ref().expect("platform").text, "$P");
    assert_eq!(base.name.as_ref().expect("a name").text, "base");
    assert_eq!(base.instructions.len(), 1);
    assert_eq!((last.base.text.as_str(), &last.name), ("base", &None));
    assert_eq!((last.span.start.line, last.span.start.column), (6, 1));
}

#[test]
fn every_word_knows_its_place() {
    let text = "FROM x\n  COPY --from=a \\\n # c\n\tb ü \\\n  /d\n";
    let file = parse(text.as_bytes()).expect("valid");
    let copy = &file.stages[0].instructions[0];
    let InstructionKind::Copy(Copy { files, from, .. }) = &copy.kind else {
        panic!("COPY")
    };
    let place = |word: &Word| {
        let Span { start, end } = word.span;
        (
            &text[start.offset..end.offset],
            start.line,
            start.column,
            end.column,
        )
    };
    assert_eq!(place(from.as_ref().expect("--from")), ("--from=a", 2, 8, 16));
    assert_eq!(place(&files.sources[1]), ("ü", 4, 4, 5));
    assert_eq!(place(&files.destination), ("/d", 5, 3, 5));
    assert_eq!(
        (copy.span.start.line, copy.span.start.column, copy.span.end.line),
        (2, 3, 5)
    );
    assert_eq!(copy.source, "COPY --from=a \tb ü   /d");
}

#[test]
fn commands_have_a_shell_and_an_exec_form() {
    let command = |text: &str| match one(text).kind {
        InstructionKind::Cmd(command) | InstructionKind::Entrypoint(command) => command,
        other => panic!("{other:?}"),
    };
    let shell = |text: &str| match command(text) {
        Command::Shell(word) => word.text,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        command(r#"CMD ["a b", "$X"]"#),
        Command::Exec(vec!["a b".into(), "$X".into()])
    );
    assert_eq!(command("ENTRYPOINT []"), Command::Exec(vec![]));
    assert_eq!(shell("CMD  a  b \\\n  c "), "a  b   c");
    assert_eq!(shell(r#"CMD ["a", 'b']"#), r#"["a", 'b']"#);
    assert_eq!(shell(r#"ENTRYPOINT ["unterminated"#), r#"["unterminated"#);
    assert_eq!(shell("CMD"), "");
}

#[test]
fn run_takes_heredocs_in_three_ways() {
    let run = |text: &str| match one(text).kind {
        InstructionKind::Run(run) => run.command,
        other => panic!("{other:?}"),
    };
    let script = run("RUN --mount=type=cache,target=/c <<-'EOF'\n\techo $X\n# stays\n\tEOF\n");
    assert!(matches!(&script, RunCommand::Script(heredoc) if !heredoc.expand));
    assert_eq!(script.shell_text().as_deref(), Some("echo $X\n# stays\n"));
    let two = run("RUN <<A cat > /a; <<B cat > /b\ntext a\nA\ntext b\nB\n");
    let expected = "<<A cat > /a; <<B cat > /b\ntext a\nA\ntext b\nB";
    assert_eq!(two.shell_text().as_deref(), Some(expected));
    assert_eq!(run(r#"RUN ["<<EOF"]"#), RunCommand::Exec(vec!["<<EOF".into()]));
    let windows = run("RUN <<E\r\na\r\nE\r\n");
    assert_eq!(windows.shell_text().as_deref(), Some("a\r\n"));
}

#[test]
fn copy_takes_heredocs_as_files() {
    let text = "COPY --chown=5:6 <<one.txt <<-\"two\" file /dest/\n1 $X\none.txt\n\t2\n\ttwo";
    let InstructionKind::Copy(Copy { files, options, .. }) = one(text).kind else {
        panic!()
    };
    assert_eq!(texts(&files.sources), ["file"]);
    assert_eq!(files.destination.text, "/dest/");
    assert_eq!(options.chown.expect("--chown").text, "5:6");
    let [first, second] = files.heredocs.as_slice() else {
        panic!("two")
    };
    assert_eq!(
        (first.name.as_str(), first.expand, &*first.content()),
        ("one.txt", true, "1 $X\n")
    );
    assert_eq!(
        (second.name.as_str(), second.expand, &*second.content()),
        ("two", false, "2\n")
    );
    assert_eq!((second.span.start.line, second.span.start.column), (5, 1));
    let body = "COPY <<EOF /s\n# no comment\nRUN \\\nEOF";
    let InstructionKind::Copy(Copy { files, .. }) = one(body).kind else {
        panic!()
    };
    assert_eq!(files.heredocs[0].body, "# no comment\nRUN \\\n");
}

#[test]
fn copy_and_add_have_flags() {
    let text = "COPY --link --parents=false --exclude=a --exclude=\"b c\" --chmod= --from= x y";
    let InstructionKind::Copy(copy) = one(text).kind else {
        panic!()
    };
    assert_eq!(
        (copy.options.link, copy.parents, &copy.from),
        (true, false, &None)
    );
    assert_eq!(texts(&copy.options.exclude), ["a", "b c"]);
    assert_eq!(copy.options.chmod, None);
    let InstructionKind::Add(add) = one("ADD --unpack=FALSE --checksum=s ['a b'] c d").kind else {
        panic!()
    };
    assert_eq!((add.unpack, add.keep_git_dir), (Some(false), None));
    assert_eq!(texts(&add.files.sources), ["['a", "b']", "c"]);
    let InstructionKind::Add(add) = one(r#"ADD ["a b", "<<x", "c"]"#).kind else {
        panic!()
    };
    assert_eq!(texts(&add.files.sources), ["a b", "<<x"]);
}

#[test]
fn env_label_and_arg_keep_their_quotes() {
    let pairs = |text: &str| match one(text).kind {
        InstructionKind::Env(pairs) | InstructionKind::Label(pairs) => Vec::from_iter(
            pairs
                .into_iter()
                .map(|p| format!("{}={}", p.name.text, p.value.text)),
        ),
        other => panic!("{other:?}"),
    };
    assert_eq!(pairs("ENV a=1 \\\n b=\"x \\\n y\""), ["a=1", "b=\"x  y\""]);
    assert_eq!(pairs("ENV a  b = c"), ["a=b = c"]);
    assert_eq!(
        pairs(r#"LABEL "q k"='v' a=b=c e="#),
        [r#""q k"='v'"#, "a=b=c", "e="]
    );
    assert_eq!(pairs("ENV K=v\\\nw"), ["K=vw"]);
    let legacy = |text: &str| match one(text).kind {
        InstructionKind::Env(pairs) => pairs[0].legacy,
        other => panic!("{other:?}"),
    };
    assert!(legacy("ENV a b") && !legacy("ENV a=b"));
    let InstructionKind::Arg(args) = one("ARG a b= c='x y'").kind else {
        panic!()
    };
    let defaults = args
        .iter()
        .map(|arg| arg.default.as_ref().map(|word| word.text.as_str()));
    assert_eq!(Vec::from_iter(defaults), [None, Some(""), Some("'x y'")]);
}

#[test]
fn the_escape_directive_changes_continuations() {
    let text = "# escape=`\nFROM x\nRUN one && `\n  two \\\nENV P=C:\\dir Q=a` b";
    let [run, env] = instructions(text).try_into().expect("two");
    assert_eq!(run.source, "RUN one &&   two \\");
    assert_eq!(env.source, "ENV P=C:\\dir Q=a` b");
    assert_eq!(parse(text.as_bytes()).expect("valid").escape(), Escape::Backquote);
    let late = "# a comment\n# escape=`\nFROM x\nRUN a \\\n b";
    assert_eq!(instructions(late).len(), 1);
}

#[test]
fn onbuild_holds_its_trigger() {
    let onbuild = |text: &str| match one(text).kind {
        InstructionKind::Onbuild(onbuild) => onbuild,
        other => panic!("{other:?}"),
    };
    let copy = onbuild("onbuild  COPY  <<-E /x\n\ta\n\tE\n");
    assert_eq!(copy.trigger, "COPY  <<-E /x\n\ta\nE");
    let again = parse_trigger(copy.trigger.as_bytes()).expect("a trigger");
    let heredocs = |instruction: Instruction| match instruction.kind {
        InstructionKind::Copy(copy) => copy.files.heredocs[0].content().into_owned(),
        other => panic!("{other:?}"),
    };
    assert_eq!(heredocs(again), heredocs(*copy.instruction));
    assert_eq!(onbuild("ONBUILD RUN a  \\\n b").trigger, "RUN a   b");
    assert!(parse_trigger(b"RUN a\nRUN b").is_err());
    assert!(parse_trigger(b"FROM a").is_err());
}

#[test]
fn the_other_instructions() {
    use InstructionKind as Kind;
    let Kind::Expose(ports) = one("EXPOSE 80  $P 443/tcp").kind else {
        panic!()
    };
    assert_eq!(texts(&ports), ["$P", "443/tcp", "80"]);
    let Kind::Volume(volumes) = one(r#"VOLUME [" a ", "b c"]"#).kind else {
        panic!()
    };
    assert_eq!(texts(&volumes), ["a", "b c"]);
    let Kind::Workdir(path) = one("WORKDIR  /a b ").kind else {
        panic!()
    };
    assert_eq!(path.text, "/a b");
    let Kind::StopSignal(signal) = one("STOPSIGNAL A B").kind else {
        panic!()
    };
    assert!(parse_stop_signal(&signal.text).is_err());
    assert_eq!(
        one(r#"SHELL ["sh", "-c"]"#).kind,
        Kind::Shell(vec!["sh".into(), "-c".into()])
    );
    let Kind::Maintainer(maintainer) = one("MAINTAINER Some One <a@b.c>").kind else {
        panic!()
    };
    assert_eq!(maintainer.text, "Some One <a@b.c>");
    assert_eq!(one("HEALTHCHECK none").kind, Kind::Healthcheck(Healthcheck::None));
    let text = "HEALTHCHECK --interval=5m --timeout=0s --retries=4 CMD [ \"true\" ]";
    let Kind::Healthcheck(Healthcheck::Cmd { command, timing }) = one(text).kind else {
        panic!()
    };
    assert_eq!(command, Command::Exec(vec!["true".into()]));
    assert_eq!(timing.interval, Some(std::time::Duration::from_secs(300)));
    assert_eq!((timing.timeout, timing.retries), (None, 4));
}

#[test]
fn a_long_file_is_read_in_linear_time() {
    let heredocs: String = (0..20_000).map(|i| format!("<<A{i} ")).collect();
    let bodies: String = (0..20_000).map(|i| format!("A{i}\n")).collect();
    for text in [
        format!("RUN {}", "a".repeat(1 << 20)),
        format!("ENV {}", "a=b \\\n".repeat(20_000)),
        format!("RUN [{}\"a\"]", "\"a\",".repeat(50_000)),
        format!("COPY {heredocs} /x\n{bodies}"),
    ] {
        let start = std::time::Instant::now();
        one(&text);
        // Far above what it takes, far below what a quadratic step would.
        assert!(start.elapsed().as_secs() < 20, "{:.20}", text);
    }
    assert!(parse(format!("FROM x\nCMD {}", "[".repeat(1 << 20)).as_bytes()).is_ok());
    assert!(parse(format!("FROM x\n{}", "ONBUILD ".repeat(1 << 17)).as_bytes()).is_err());
}

proptest! {
    #[test]
    fn no_bytes_panic(text in any::<Vec<u8>>()) {
        if let Err(error) = parse(&text) {
            error.render("Dockerfile", &text);
        }
    }

    #[test]
    fn no_text_panics(parts in prop::collection::vec(fragment(), 0..20)) {
        let text = format!("FROM x\n{}", parts.concat());
        match parse(text.as_bytes()) {
            Ok(file) => for instruction in &file.stages[0].instructions {
                let Span { start, end } = instruction.span;
                prop_assert!(text.get(start.offset..end.offset).is_some());
            },
            Err(error) => {
                prop_assert!(error.render("Dockerfile", text.as_bytes()).lines().count() >= 3);
            }
        }
    }
}

/// Pieces that Dockerfiles are made of.
fn fragment() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "RUN ",
        "COPY ",
        "ENV ",
        "ARG ",
        "ONBUILD ",
        "HEALTHCHECK ",
        "CMD ",
        "FROM ",
        "LABEL ",
        "\n",
        "\\\n",
        "`\n",
        "\r\n",
        " ",
        "\t",
        "#",
        "<<E",
        "<<-'E' ",
        "\nE\n",
        "[\"a\"]",
        "[",
        "--",
        "--from=a ",
        "a=b",
        "=",
        "'",
        "\"",
        "\\",
        "$x",
        "${x:-y}",
        "é",
        "\u{a0}",
        "NONE",
        "AS b",
    ])
}
