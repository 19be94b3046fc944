// Package stage is the program that runs first inside a sandbox: it runs the
// vassal's hooks, drops privileges, enters the SELinux domain and becomes the
// core. It is linked into its own small static binary, cmd/liege-stage, whose
// C constructor is the last step; the Emperor's side imports it for the types
// that cross the boundary.
//
// # The two sides
//
//	Emperor                                       sandbox
//	p.Encode → Seal → plan fd ───────────────────► liege-stage --plan FD
//	ParseFailure ◄──── status (SOCK_SEQPACKET) ◄── one Failure, or nothing
//	                                               execve → liege-core
//
// Nothing on the status channel does not mean success: the start succeeded
// when the core said hello and the Emperor saw the planned ids, capabilities
// and context from outside (KERNEL 7).
//
// # What the stage promises
//
// Everything privileged happens on one OS thread, which main locks first:
// capabilities, no_new_privs and seccomp are per thread, and a child inherits
// from the thread that forks it (KERNEL 6). Each drop is read back from the
// kernel. A step that fails ends the start; there is no fallback to less. The
// stage looks up nothing: no user, no host name, no PATH.
//
// # Hooks
//
// A command (exec) of an as-root hook has the stage's privileges, HookEnv as
// all of its environment, /dev/null as input, and its output goes to the
// vassal's log. One of an as-user hook starts in the vassal's final state:
// ids, no capability, empty bounding set, no_new_privs, seccomp and SELinux
// context. A command that takes longer than HookTime is killed with its
// process group and ends the start. What hooks leave running is killed at the
// end of their phase.
//
// Built-in file actions of as-root hooks walk each path component by
// component. A symbolic link is followed only where it lies in a directory
// that nobody but root can write; in any other directory it is refused, as is
// a file there that has a second name (a hard link) or is no regular file,
// because a tenant could have put it there to make root change something else.
// A mount made by a hook is always nosuid, and nodev unless it is a devpts.
package stage
