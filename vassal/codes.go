package vassal

import "slices"

// The stable words of Problem.Code: part of the outside contract, listed with
// their meaning by Codes. None is renamed or given another meaning.
const (
	// The text.
	CodeSyntax          = "syntax"
	CodeNoSection       = "no-section"
	CodeTooBig          = "too-big"
	CodeUnreadable      = "unreadable"
	CodeUnsetEnv        = "unset-environment"
	CodeRefusedScheme   = "refused-scheme"
	CodeVanishedPercent = "vanished-percent"
	CodeEmperorSection  = "emperor-section"
	CodeNotExpanded     = "not-expanded"
	CodePlaceholder     = "placeholder"
	CodeBlock           = "block"

	// The options.
	CodeUnknownOption     = "unknown-option"
	CodeBadValue          = "bad-value"
	CodeTrailingText      = "trailing-text"
	CodeCommentInValue    = "comment-in-value"
	CodeQuotedValue       = "quoted-value"
	CodeNotYet            = "not-yet"
	CodeDoneOtherwise     = "done-otherwise"
	CodeAlwaysSo          = "always-so"
	CodeRefused           = "refused"
	CodeUnknownPlugin     = "unknown-plugin"
	CodePluginNotNamed    = "plugin-not-named"
	CodeOwnOptionInUWSGI  = "own-option-in-uwsgi"
	CodeNothingToRun      = "nothing-to-run"
	CodeNotForTenants     = "not-for-tenants"
	CodeOwner             = "owner"
	CodeOverCeiling       = "over-ceiling"
	CodeBadHook           = "bad-hook"
	CodeHookAfterSetcon   = "hook-after-setcon"
	CodeSeveralContexts   = "several-contexts"
	CodeTwoApps           = "two-apps"
	CodeNoListener        = "no-listener"
	CodeSleeps            = "sleeps"
	CodeRoutingNotApplied = "routing-not-applied"
	CodeBadRoute          = "bad-route"
	CodeBadCache          = "bad-cache"
	CodeBadMetric         = "bad-metric"

	// The host.
	CodeNoUID         = "no-uid"
	CodeNoSuchUser    = "no-such-user"
	CodeNoSuchGroup   = "no-such-group"
	CodeNoSuchPath    = "no-such-path"
	CodeNotVisible    = "not-visible"
	CodeNoAccess      = "no-access"
	CodeRefusedPath   = "refused-path"
	CodeUntrusted     = "untrusted-file"
	CodeBadName       = "bad-name"
	CodeSameName      = "same-name"
	CodeNoSELinux     = "no-selinux"
	CodeUIDRoot       = "uid-root"
	CodeUIDTooLow     = "uid-too-low"
	CodeUIDSkipped    = "uid-skipped"
	CodeNoGID         = "no-gid"
	CodeNoAutoUID     = "no-auto-uid"
	CodeNoInterpreter = "interpreter-missing"
	CodeListenInUse   = "listen-in-use"
	CodeListen        = "listen"
	CodeNotReachable  = "not-reachable"
	CodeCannotConnect = "cannot-connect"
	CodeNeedsRoot     = "needs-root"
	CodeNoLimit       = "no-such-limit"
	CodeNoRoom        = "no-room"

	CodeBadCertificate = "bad-certificate"

	// A start and a run.
	CodeStartFailed = "start-failed"
	CodeHookFailed  = "hook-failed"
	CodeCheckFailed = "check-failed"
	CodeNotReady    = "not-ready"
	CodeExitedEarly = "exited-early"
	CodeImportError = "import-error"
	CodeNoCallable  = "no-callable"
	CodeAppNotFound = "app-not-found"
	CodeOOM         = "oom"
	CodeProtocol    = "protocol"
	CodeStuck       = "stuck"
	CodeInternal    = "internal"

	// The vassal files as such.
	CodeNotAFile      = "not-a-file"
	CodeNotSupported  = "not-supported"
	CodeBadDirectory  = "directory-unusable"
	CodeNoSuchVassal  = "no-such-vassal"
	CodeWrongState    = "wrong-state"
	CodeGone          = "gone"
	CodeTimedOut      = "timed-out"
	CodeNotPermitted  = "not-permitted"
	CodeNoEmperor     = "no-emperor"
	CodeBusy          = "busy"
	CodeBadRequest    = "bad-request"
	CodeControlSocket = "control-socket"
	CodeNotSaved      = "not-saved"
	CodeNotLogged     = "not-logged"
	CodeNotDone       = "not-done"
	CodeLastLines     = "last-lines"

	// The command.
	CodeUsage       = "usage"
	CodeFailed      = "failed"
	CodeNotFound    = "not-found"
	CodeUnwritable  = "unwritable"
	CodeNoLog       = "no-log"
	CodeInterrupted = "interrupted"

	// SELinux policy modules.
	CodeBadPolicy    = "bad-policy"
	CodeNoPolicy     = "no-policy"
	CodeNoTool       = "no-tool"
	CodeAssertion    = "assertion"
	CodePortTaken    = "port-taken"
	CodeNoCategories = "no-categories"
	CodeNoModule     = "no-module"
	CodeModuleInUse  = "module-in-use"
	CodeModuleExists = "module-exists"
	CodePolicyBusy   = "policy-busy"
	CodeNotInstalled = "not-installed"
	CodeNotUndone    = "not-undone"
)

// Code is one word with its meaning.
type Code struct{ Name, Meaning string }

// Codes lists every code, in the order in which a start meets them.
func Codes() []Code { return slices.Clone(codes) }

var codes = []Code{
	{CodeSyntax, "The text is not an ini file: garbage before the first section, a NUL byte, invalid UTF-8, a block that is not closed."},
	{CodeNoSection, "The file has neither a section [uwsgi] nor [vassal], or not the section that was named."},
	{CodeTooBig, "The file, what it includes or what it expands to is larger than the limits of the language, or names more listeners or paths than one vassal may have."},
	{CodeUnreadable, "A file that the text includes or quotes cannot be read, or is not below the directories a tenant may read from."},
	{CodeUnsetEnv, "$(NAME) names a variable that is not set and gives no default; the text stays as it is."},
	{CodeRefusedScheme, "@(scheme://…) runs programs or reaches the network and is refused."},
	{CodeVanishedPercent, "A % sequence inside a value vanished or was replaced; a literal percent sign is written %%."},
	{CodeEmperorSection, "A vassal file has a section [emperor]; its attributes are not used."},
	{CodeNotExpanded, "A $(), @() or %() stands where it is not expanded: in a word of the language itself, or in an inherited file."},
	{CodePlaceholder, "A %(name) is not defined or refers to itself, or a placeholder has the name of an option."},
	{CodeBlock, "A for or if is not closed, closes nothing, is nested, or its argument is unusable."},

	{CodeUnknownOption, "No option has this name and no %(…) refers to it. An error in a tenant's file and with strict = true."},
	{CodeBadValue, "The value does not fit the option: no number, an unknown word, a missing part."},
	{CodeTrailingText, "The leading number or the first word counts; the rest of the value has no effect."},
	{CodeCommentInValue, "A text value holds \" ;\" or \" #\": comments need a line of their own, so this is part of the value."},
	{CodeQuotedValue, "A text value begins and ends with a quote: quotes are part of the value."},
	{CodeNotYet, "A known option that this release does not carry out. An error when nothing could be served without it."},
	{CodeDoneOtherwise, "The option has its effect in another way; the message says how."},
	{CodeAlwaysSo, "The value asks for something else than what always holds here."},
	{CodeRefused, "The option is refused; the hint says what to write instead."},
	{CodeUnknownPlugin, "A plugin of this name is not known. An error with need-plugin."},
	{CodePluginNotNamed, "The file names plugins but not the one that this option belongs to: built in here, ignored by uWSGI."},
	{CodeOwnOptionInUWSGI, "An option that uWSGI does not know stands in [uwsgi]; in [vassal] the file still runs under uWSGI with strict."},
	{CodeNothingToRun, "The file names neither an app nor static files, nor anything else that could run."},
	{CodeNotForTenants, "The file belongs to a user, and only files of root may use this option."},
	{CodeOwner, "The file belongs to one user and asks to run as another."},
	{CodeOverCeiling, "The value is above what [ceilings] of emperor.ini allows."},
	{CodeBadHook, "A hook is not written as action:argument, its phase does not exist yet, or its action is unknown."},
	{CodeHookAfterSetcon, "A hook stands after callret:setcon, which is always the last step."},
	{CodeSeveralContexts, "Two lines ask for two different SELinux contexts."},
	{CodeTwoApps, "Two lines name two different apps for the same workers; the last one counts."},
	{CodeNoListener, "There is something to serve and no address to serve it on."},
	{CodeSleeps, "A vassal with on-demand has crons, daemons, mules or the like, which do not run while it sleeps."},
	{CodeRoutingNotApplied, "A routing rule uses a condition or an action that this release does not have, so the file is refused: a rule left out could open what it protects."},
	{CodeBadCache, "A cache is not written as it must be, its store is no cache's file, or what is put into it at the start does not fit or cannot be read."},
	{CodeBadMetric, "A metric is not written as it must be, or a rule or another metric names one that there is not."},
	{CodeBadRoute, "A routing rule is not written as it must be: its regular expression, condition, action, argument, or the label that a goto names."},

	{CodeNoUID, "No line says as whom the app runs, so it would run as root."},
	{CodeUIDRoot, "The app would run as root, or in root's group."},
	{CodeUIDTooLow, "The file belongs to a system user, whose files are not run (min-uid)."},
	{CodeUIDSkipped, "Not started as root, so the app runs as the caller and not as the user that the file names."},
	{CodeNoGID, "The uid has no entry in the user database and the file names no group."},
	{CodeNoAutoUID, "A uid of the vassal's own (uid = auto) could not be allotted."},
	{CodeNoInterpreter, "The interpreter that runs the app is not there, or cannot run."},
	{CodeNoSuchUser, "The user does not exist on this host."},
	{CodeNoSuchGroup, "The group does not exist on this host."},
	{CodeNoSuchPath, "A path that the file names does not exist on this host."},
	{CodeNotVisible, "Something that the app will look for exists on the host and is not visible inside."},
	{CodeNoAccess, "The vassal's user may not enter its app's directory, or not read its app's file: mode and owner keep it out."},
	{CodeRefusedPath, "A path is too wide, or belongs to the system or to Liege, and is never bound."},
	{CodeUntrusted, "The file is writable by others, has several links, or is reached through a link that others can move; it is not read."},
	{CodeBadName, "The file's name cannot be a vassal's name."},
	{CodeSameName, "Two files give the same vassal name."},
	{CodeNoSELinux, "The file asks for an SELinux context, and the kernel or the loaded policy does not have it."},
	{CodeListenInUse, "The address is taken: by another vassal, another line, or another program."},
	{CodeListen, "The listener cannot be made: no such directory, no permission, a file system without sockets."},
	{CodeNotReachable, "The vassal's network does not reach an address that a value of env names, or something of the host stands in its way: a firewall, a relay that has ended."},
	{CodeCannotConnect, "No web server's user of this host can connect to the socket: its mode, its owner or a directory on the way stops them."},
	{CodeNoLimit, "The kernel of this host, or the device that is named, has no such limit: the vassal does not start with less."},
	{CodeNoRoom, "The memory that [ceilings] allows is not enough for two generations: the old one ended before the new one was started."},
	{CodeNeedsRoot, "liege serve was not started as root, and the file asks for what only root can do."},
	{CodeBadCertificate, "A certificate or a private key of TLS is missing, cannot be read, does not belong to the other, can be read by others, or has expired or soon will."},

	{CodeStartFailed, "A step of the start failed; step and message say which and why."},
	{CodeHookFailed, "A hook failed; the message has its last lines."},
	{CodeCheckFailed, "The started process is not what was planned; it was killed before it served."},
	{CodeNotReady, "The app was not ready within ready-timeout."},
	{CodeExitedEarly, "The app ended before it was ready, or soon after."},
	{CodeImportError, "The app's code could not be loaded; the message has the traceback."},
	{CodeNoCallable, "The app's module was loaded and has no callable of that name."},
	{CodeAppNotFound, "The file or directory of the application is not there."},
	{CodeOOM, "The kernel killed the vassal for its memory-max."},
	{CodeProtocol, "A process of the vassal broke the rules of its control channel and was ended."},
	{CodeStuck, "Something hangs in the kernel: processes of a generation that was killed, and a new one starts all the same; or what the Emperor does for the vassal, and then none does until it answers."},
	{CodeInternal, "A defect of Liege was met; the Emperor's log has it."},

	{CodeNotAFile, "Something that is no regular file, or lies on procfs or sysfs, has a vassal file's name; it is not read."},
	{CodeNotSupported, "A vassal file in a format that is not read; write ini."},
	{CodeBadDirectory, "A directory of vassal files is gone, or others can write it; the vassals from it stay as they are."},
	{CodeNoSuchVassal, "No vassal has this name."},
	{CodeWrongState, "The vassal is stopped or suspended, and the command does not end that."},
	{CodeGone, "The vassal's file went while the command waited."},
	{CodeTimedOut, "What was asked for was not done in time; it may still be under way."},
	{CodeNotPermitted, "Whoever asks is not root, not in the control group, and does not run the vassal."},
	{CodeNoEmperor, "No Emperor answers at this run directory."},
	{CodeBusy, "Too many requests at once."},
	{CodeBadRequest, "The request to the Emperor is not understood."},
	{CodeNotSaved, "The state of a vassal (stopped, suspended, counters) or the record of a generation that serves cannot be written; it holds until the Emperor ends. The message says which, and it is tried again."},
	{CodeNotLogged, "The file that the vassal's lines go to cannot be written, and they are lost; gone when it can be again."},
	{CodeControlSocket, "The control socket cannot be made."},
	{CodeNotDone, "What was asked for failed; the messages about each vassal say why."},
	{CodeLastLines, "A note that holds the last lines that the vassal printed before it ended."},
	{CodeUsage, "The command line is wrong: an unknown command or flag, a word too many or too few."},
	{CodeFailed, "The command failed at run time; the message says why."},
	{CodeNotFound, "A file, a directory or a program that the command needs is not there."},
	{CodeUnwritable, "A file that the command was to write cannot be written."},
	{CodeNoLog, "The vassal has no log yet."},
	{CodeInterrupted, "liege serve was ended before it was ready."},

	{CodeBadPolicy, "An SELinux policy module, its file contexts or what it is to be made of has a mistake."},
	{CodeNoPolicy, "No SELinux policy is installed there, or one that cannot be read."},
	{CodeNoTool, "A program that changes or compiles the policy is not installed; the hint names its package."},
	{CodeAssertion, "A rule lets one app reach another, or something that no app may reach."},
	{CodePortTaken, "The port has another type in the installed policy already."},
	{CodeNoCategories, "The module parts its tenants by categories, which mean nothing in the installed policy."},
	{CodeNoModule, "No policy module of this app is installed."},
	{CodeModuleInUse, "Processes run in the domain of the module that is to be removed."},
	{CodeModuleExists, "The files of a module are there already."},
	{CodePolicyBusy, "Another program is changing the policy."},
	{CodeNotInstalled, "The installation of a module failed; everything is as it was before."},
	{CodeNotUndone, "The installation of a module failed, and it could not be undone yet."},
}

// KnownCode reports whether code is one of Codes.
func KnownCode(code string) bool {
	return slices.ContainsFunc(codes, func(c Code) bool { return c.Name == code })
}
