//! The rules: their names, which are Docker's, and what each is for.

/// A rule. The order is that of Docker's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// A stage's name has capitals.
    StageNameCasing,
    /// `FROM` and `as` differ in case.
    FromAsCasing,
    /// An instruction goes on over a blank line.
    NoEmptyContinuation,
    /// Instructions differ in case.
    ConsistentInstructionCasing,
    /// Two stages have one name.
    DuplicateStageName,
    /// A stage's name means something else.
    ReservedStageName,
    /// CMD or ENTRYPOINT in shell form.
    JsonArgsRecommended,
    /// MAINTAINER.
    MaintainerDeprecated,
    /// FROM uses an argument that no ARG declares.
    UndefinedArgInFrom,
    /// WORKDIR is relative, and nothing before it says to what.
    WorkdirRelativePath,
    /// A variable is used that is not set.
    UndefinedVar,
    /// An instruction of which only the last counts is there twice.
    MultipleInstructionsDisallowed,
    /// `ENV NAME VALUE`.
    LegacyKeyValueFormat,
    /// `FROM --platform=$TARGETPLATFORM`.
    RedundantTargetPlatform,
    /// An argument or a variable is named as a secret is.
    SecretsUsedInArgOrEnv,
    /// FROM names no image unless a build argument is given.
    InvalidDefaultArgInFrom,
    /// `FROM --platform=linux/amd64`.
    FromPlatformFlagConstDisallowed,
    /// COPY or ADD of what `.dockerignore` leaves out.
    CopyIgnoredFile,
    /// A comment before an ARG or a stage does not describe it.
    InvalidDefinitionDescription,
    /// `EXPOSE 80/TCP`.
    ExposeProtoCasing,
    /// `EXPOSE 80:80`.
    ExposeInvalidFormat,
}

impl Rule {
    /// Every rule.
    pub const ALL: [Self; 21] = [
        Self::StageNameCasing,
        Self::FromAsCasing,
        Self::NoEmptyContinuation,
        Self::ConsistentInstructionCasing,
        Self::DuplicateStageName,
        Self::ReservedStageName,
        Self::JsonArgsRecommended,
        Self::MaintainerDeprecated,
        Self::UndefinedArgInFrom,
        Self::WorkdirRelativePath,
        Self::UndefinedVar,
        Self::MultipleInstructionsDisallowed,
        Self::LegacyKeyValueFormat,
        Self::RedundantTargetPlatform,
        Self::SecretsUsedInArgOrEnv,
        Self::InvalidDefaultArgInFrom,
        Self::FromPlatformFlagConstDisallowed,
        Self::CopyIgnoredFile,
        Self::InvalidDefinitionDescription,
        Self::ExposeProtoCasing,
        Self::ExposeInvalidFormat,
    ];

    /// The name that options and reports have.
    pub fn name(self) -> &'static str {
        match self {
            Self::StageNameCasing => "StageNameCasing",
            Self::FromAsCasing => "FromAsCasing",
            Self::NoEmptyContinuation => "NoEmptyContinuation",
            Self::ConsistentInstructionCasing => "ConsistentInstructionCasing",
            Self::DuplicateStageName => "DuplicateStageName",
            Self::ReservedStageName => "ReservedStageName",
            Self::JsonArgsRecommended => "JSONArgsRecommended",
            Self::MaintainerDeprecated => "MaintainerDeprecated",
            Self::UndefinedArgInFrom => "UndefinedArgInFrom",
            Self::WorkdirRelativePath => "WorkdirRelativePath",
            Self::UndefinedVar => "UndefinedVar",
            Self::MultipleInstructionsDisallowed => "MultipleInstructionsDisallowed",
            Self::LegacyKeyValueFormat => "LegacyKeyValueFormat",
            Self::RedundantTargetPlatform => "RedundantTargetPlatform",
            Self::SecretsUsedInArgOrEnv => "SecretsUsedInArgOrEnv",
            Self::InvalidDefaultArgInFrom => "InvalidDefaultArgInFrom",
            Self::FromPlatformFlagConstDisallowed => "FromPlatformFlagConstDisallowed",
            Self::CopyIgnoredFile => "CopyIgnoredFile",
            Self::InvalidDefinitionDescription => "InvalidDefinitionDescription",
            Self::ExposeProtoCasing => "ExposeProtoCasing",
            Self::ExposeInvalidFormat => "ExposeInvalidFormat",
        }
    }

    /// What the rule asks for, and why.
    pub fn description(self) -> &'static str {
        match self {
            Self::StageNameCasing => {
                "names of stages are written in lower case: case does not tell them apart"
            }
            Self::FromAsCasing => "FROM and AS are written alike, both in capitals or both in small letters",
            Self::NoEmptyContinuation => {
                "an instruction does not go on over blank lines: a later frontend will refuse it"
            }
            Self::ConsistentInstructionCasing => {
                "all instructions of a file are in capitals, or all are in small letters"
            }
            Self::DuplicateStageName => "each stage has a name of its own",
            Self::ReservedStageName => "a stage is not called as something else is: context, scratch",
            Self::JsonArgsRecommended => {
                "CMD and ENTRYPOINT are JSON arrays: a shell in between does not hand on signals"
            }
            Self::MaintainerDeprecated => "a label names the author; MAINTAINER is deprecated",
            Self::UndefinedArgInFrom => "an ARG before the first FROM declares what FROM uses",
            Self::WorkdirRelativePath => {
                "the first WORKDIR of a build is absolute: what a relative one means is up to the base image"
            }
            Self::UndefinedVar => "a variable is defined before it is used",
            Self::MultipleInstructionsDisallowed => {
                "a stage has one CMD, ENTRYPOINT and HEALTHCHECK: only the last one counts"
            }
            Self::LegacyKeyValueFormat => "ENV and LABEL are written with a =; a blank is the old form",
            Self::RedundantTargetPlatform => "FROM is for $TARGETPLATFORM without being told",
            Self::SecretsUsedInArgOrEnv => {
                "a secret is given by RUN --mount=type=secret: ARG and ENV stay readable in the image"
            }
            Self::InvalidDefaultArgInFrom => {
                "FROM names an image also where no build argument is given: ARG has a default"
            }
            Self::FromPlatformFlagConstDisallowed => {
                "the platform of FROM is not fixed: it is up to who builds, or a variable"
            }
            Self::CopyIgnoredFile => "COPY and ADD take no file that .dockerignore leaves out",
            Self::InvalidDefinitionDescription => {
                "a comment right before ARG or FROM begins with the name of what it describes"
            }
            Self::ExposeProtoCasing => "the protocol of EXPOSE is written in small letters",
            Self::ExposeInvalidFormat => {
                "EXPOSE has ports of the container only: addresses and ports of the host are for run"
            }
        }
    }

    /// Whether the rule is asked only if the options name it.
    pub fn is_experimental(self) -> bool {
        self == Self::InvalidDefinitionDescription
    }
}
