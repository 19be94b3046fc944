// Package action knows the arguments of hook actions. It is used twice: when
// a vassal file is checked, so that a mistake is found with its line before
// anything starts, and by the stage that runs the action.
//
//	call, err := action.Parse(hook)
//
// Words of an argument are separated by spaces; what is the last argument of
// an action (a command, a text, mount data) may hold spaces itself. Where
// uWSGI is known to misread an argument this package does what the text says:
// a mode of four octal digits keeps its first digit, and an unknown flag is an
// error.
package action

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"liege/vassal"
)

// Kind is an action's name; one that is written in several ways has one of
// them. Of the functions of C libraries (call and its kin) it is the action
// that does the same.
type Kind string

// The actions.
const (
	Exec       Kind = "exec"      // COMMAND, run by /bin/sh -c
	Safeexec   Kind = "safeexec"  // COMMAND, whose end does not matter
	Write      Kind = "write"     // FILE TEXT
	Writen     Kind = "writen"    // FILE TEXT, a newline follows
	Append     Kind = "append"    // FILE TEXT
	Appendn    Kind = "appendn"   // FILE TEXT, a newline follows
	Create     Kind = "create"    // FILE, empty
	WriteFIFO  Kind = "writefifo" // FIFO TEXT; nobody need read
	SpinFIFO   Kind = "spinningfifo"
	Mkdir      Kind = "mkdir"
	Chown      Kind = "chown"  // FILE USER GROUP; names until resolved
	Chown2     Kind = "chown2" // FILE UID GID
	Chmod      Kind = "chmod"  // FILE MODE
	Sticky     Kind = "sticky" // FILE
	Mount      Kind = "mount"  // FSTYPE WHAT WHERE [FLAG,FLAG] [DATA]
	Umount     Kind = "umount" // WHERE [FLAG,FLAG]
	Hostname   Kind = "hostname"
	Cd         Kind = "cd"
	Putenv     Kind = "putenv" // NAME=VALUE
	Unlink     Kind = "unlink"
	Print      Kind = "print" // TEXT
	WaitFS     Kind = "wait_for_fs"
	WaitFile   Kind = "wait_for_file"
	WaitDir    Kind = "wait_for_dir"
	WaitMount  Kind = "wait_for_mountpoint"
	WaitSocket Kind = "wait_for_socket" // ADDRESS
	RPC        Kind = "rpc"             // FUNCTION [ARG…] of the application
	RetryRPC   Kind = "retryrpc"        // the same, until it works
	Alarm      Kind = "alarm"           // NAME TEXT
	Exit       Kind = "exit"            // [CODE]
	Setcon     Kind = "callret"         // setcon CONTEXT
	Rmdir      Kind = "rmdir"
	Umask      Kind = "umask" // MASK
)

// Kinds are the actions that are written by name, in the order of the
// documentation. The functions of call are Functions.
func Kinds() []Kind {
	return []Kind{Exec, Safeexec, Write, Writen, Append, Appendn, Create, WriteFIFO, SpinFIFO, Mkdir, Rmdir, Unlink,
		Chown, Chown2, Chmod, Sticky, Mount, Umount, Hostname, Cd, Umask, Putenv, Print, WaitFS, WaitFile, WaitDir, WaitMount, WaitSocket, RPC, RetryRPC, Alarm, Exit, Setcon}
}

// spellings are other names of the same actions.
var spellings = map[string]Kind{"chdir": Cd, "log": Print, "creat": Create}

// refused are actions of uWSGI and of its plugins that there are not, and why.
var refused = map[string]string{
	"unix_signal": "the signals of the core have fixed meanings; only hook-master-start = unix_signal:N gracefully_kill_them_all is known, and always so",
	"ffi":         "no code of libraries is loaded; use exec",
	"tcc":         "no code is compiled into the process; use exec",
	"perl":        "no code is run inside the process; use exec",
}

// Call is an action with its arguments. Which fields are set depends on Kind.
type Call struct {
	Kind        Kind
	Path        string   // FILE, DIR, FIFO, WHERE; NAME of Alarm
	Text        string   // COMMAND, TEXT, NAME, NAME=VALUE, CONTEXT, ADDRESS, FUNCTION, mount data
	Args        []string // of RPC
	Mode        uint32   // of Chmod and Umask
	User, Group string   // of Chown
	UID, GID    int      // of Chown2, and of Chown with numbers; else -1
	FSType      string   // of Mount
	Source      string   // of Mount
	Flags       []string // of Mount and Umount: one spelling each
	Code        int      // of Exit
	Ignored     bool     // whether it fails does not matter: safeexec, call, callint
}

// MaxArg is the longest argument in bytes.
const MaxArg = 64 << 10

// Check reports what is wrong with h, as far as its text tells.
func Check(h vassal.Hook) error {
	_, err := Parse(h)
	return err
}

// Parse returns the action that h asks for. The error does not name h, and
// never quotes the argument of a private one.
func Parse(h vassal.Hook) (Call, error) {
	if strings.ContainsRune(h.Arg, 0) {
		return Call{}, errors.New("a NUL byte in the argument")
	}
	if len(h.Arg) > MaxArg {
		return Call{}, fmt.Errorf("the argument has %d bytes; at most %d are allowed", len(h.Arg), MaxArg)
	}
	name, arg, ignored := h.Action, h.Arg, h.Action == string(Safeexec)
	if called(name) {
		var err error
		if name, arg, err = function(name, arg); err != nil {
			if h.Private {
				err = fmt.Errorf("%w: the function is none of those that something is done for (the argument is private)", ErrSymbol)
			}
			return Call{}, err
		}
		ignored = !strings.HasSuffix(h.Action, "ret") && name != string(Setcon)
	}
	c := Call{Kind: Kind(name), UID: -1, GID: -1, Ignored: ignored}
	if kind, ok := spellings[name]; ok {
		c.Kind = kind
	}
	if err := c.check(h.Phase); err != nil {
		return Call{}, err
	}
	if err := c.parse(arg); err != nil {
		if h.Private {
			return Call{}, fmt.Errorf("want %s (the argument is private)", usage[c.Kind])
		}
		return Call{}, err
	}
	return c, nil
}

// usage is the form of each action's arguments.
var usage = map[Kind]string{
	Exec: "exec:COMMAND", Safeexec: "safeexec:COMMAND", Write: "write:FILE TEXT", Writen: "writen:FILE TEXT",
	Append: "append:FILE TEXT", Appendn: "appendn:FILE [TEXT]", Create: "create:FILE",
	WriteFIFO: "writefifo:FIFO TEXT", SpinFIFO: "spinningfifo:FIFO TEXT", Mkdir: "mkdir:DIR",
	Chown: "chown:FILE USER GROUP", Chown2: "chown2:FILE UID GID", Chmod: "chmod:FILE MODE (octal)", Sticky: "sticky:FILE",
	Mount: "mount:FSTYPE WHAT WHERE [FLAG,FLAG] [DATA]", Umount: "umount:WHERE [FLAG,FLAG]",
	Hostname: "hostname:NAME", Cd: "cd:DIR", Putenv: "putenv:NAME=VALUE", Unlink: "unlink:FILE",
	Print: "print:TEXT", WaitFS: "wait_for_fs:PATH", WaitFile: "wait_for_file:FILE", WaitDir: "wait_for_dir:DIR",
	WaitMount: "wait_for_mountpoint:DIR", WaitSocket: "wait_for_socket:ADDRESS",
	RPC: "rpc:FUNCTION [ARG…]", RetryRPC: "retryrpc:FUNCTION [ARG…]", Alarm: "alarm:NAME TEXT", Exit: "exit:[CODE]", Setcon: "callret:setcon CONTEXT",
	Rmdir: "rmdir:DIR", Umask: "umask:MASK",
}

// parse reads the argument of c's kind.
func (c *Call) parse(arg string) error {
	want := fmt.Errorf("want %s", usage[c.Kind])
	switch c.Kind {
	case Exec, Safeexec, WaitSocket:
		if c.Text = strings.TrimSpace(arg); c.Text == "" {
			return want
		}
	case Print:
		c.Text = arg
	case Write, Writen, Append, Appendn, WriteFIFO, SpinFIFO, Alarm:
		var ok bool
		c.Path, c.Text, ok = strings.Cut(strings.TrimLeft(arg, " \t"), " ")
		if c.Path == "" || !ok && c.Kind != Writen && c.Kind != Appendn {
			return want
		}
	case Mkdir, Rmdir, Cd, Unlink, Create, Sticky, WaitFS, WaitFile, WaitDir, WaitMount:
		// the whole argument: such a path may hold spaces
		if c.Path = strings.TrimSpace(arg); c.Path == "" {
			return want
		}
	case Hostname:
		return c.hostname(strings.TrimSpace(arg))
	case Putenv:
		name, _, ok := strings.Cut(arg, "=")
		if !ok || name == "" || strings.ContainsAny(name, " \t\n") {
			return want
		}
		c.Text = arg
	case Setcon:
		f := strings.Fields(arg)
		if len(f) != 2 {
			return want
		}
		c.Text = f[1]
	case Exit, Umask:
		return c.numeric(strings.TrimSpace(arg))
	case RPC, RetryRPC:
		return c.rpc(strings.Fields(arg), want)
	default:
		return c.words(strings.Fields(arg), want)
	}
	return nil
}

// numeric parses the actions whose argument is a number: decimal, as
// atoi(3) reads those of callint, but for a mask with a leading 0.
func (c *Call) numeric(arg string) error {
	if c.Kind == Exit {
		if arg == "" {
			return nil
		}
		n, err := strconv.ParseUint(arg, 10, 8)
		if err != nil {
			return fmt.Errorf("%q is not an exit status of 0 to 255", clip(arg))
		}
		c.Code = int(n)
		return nil
	}
	n, err := strconv.ParseUint(arg, 0, 32)
	if err != nil || n > 0o777 {
		return fmt.Errorf("%q is not a mask of 0 to 0777; without a leading 0 it is decimal", clip(arg))
	}
	c.Mode = uint32(n)
	return nil
}

func (c *Call) rpc(f []string, want error) error {
	if len(f) == 0 {
		return want
	}
	if strings.Contains(f[0], "@") {
		return fmt.Errorf("%s: functions of other servers are not called", clip(f[0]))
	}
	c.Text, c.Args = f[0], f[1:]
	return nil
}

// words parses the actions whose arguments are all single words.
func (c *Call) words(f []string, want error) error {
	switch c.Kind {
	case Chown, Chown2:
		if len(f) != 3 {
			return want
		}
		c.Path, c.User, c.Group = f[0], f[1], f[2]
		c.UID, c.GID = number(f[1]), number(f[2])
		if c.Kind == Chown2 && (c.UID < 0 || c.GID < 0) {
			return fmt.Errorf("%q and %q are to be numbers; use chown for names", f[1], f[2])
		}
	case Chmod:
		if len(f) != 2 {
			return want
		}
		mode, err := strconv.ParseUint(f[1], 8, 12)
		if err != nil {
			return fmt.Errorf("mode %q: want 3 or 4 octal digits", clip(f[1]))
		}
		c.Path, c.Mode = f[0], uint32(mode)
	case Mount:
		if len(f) < 3 {
			return want
		}
		c.FSType, c.Source, c.Path = f[0], f[1], f[2]
		if len(f) > 4 {
			c.Text = strings.Join(f[4:], " ")
		}
		if len(f) > 3 {
			return c.flags(f[3], mountFlags)
		}
	case Umount:
		if len(f) < 1 || len(f) > 2 {
			return want
		}
		c.Path = f[0]
		if len(f) == 2 {
			return c.flags(f[1], umountFlags)
		}
	}
	return nil
}

func (c *Call) hostname(s string) error {
	if s == "" || len(s) > 63 || strings.ContainsAny(s, " \t/") {
		return errors.New("want hostname:NAME of 1 to 63 characters, without spaces")
	}
	c.Text = s
	return nil
}

// mountFlags maps each spelling to the one used in Call.Flags.
var mountFlags = map[string]string{
	"bind": "bind", "dirsync": "dirsync", "mandlock": "mandlock", "move": "move", "noatime": "noatime",
	"nodev": "nodev", "noexec": "noexec", "nosuid": "nosuid", "private": "private", "rdonly": "ro", "readonly": "ro",
	"rec": "rec", "recursive": "rec", "relatime": "relatime", "remount": "remount", "ro": "ro", "sync": "sync",
	"defaults": "", "rw": "",
}

var umountFlags = map[string]string{"detach": "detach", "force": "force", "rec": "rec", "recursive": "rec"}

func (c *Call) flags(s string, known map[string]string) error {
	for _, w := range strings.Split(s, ",") {
		flag, ok := known[w]
		if w == "shared" && c.Kind == Mount {
			return errors.New("flag shared: a mount of a sandbox is never shared")
		}
		if !ok {
			return fmt.Errorf("unknown flag %q; the flags are %s", clip(w), flagList(known))
		}
		if flag != "" && !slices.Contains(c.Flags, flag) {
			c.Flags = append(c.Flags, flag)
		}
	}
	return nil
}

// WithIDs returns the chown hook h with the numbers that its names stand for:
// whoever resolves names calls it, since the stage looks up none.
func WithIDs(h vassal.Hook, uid, gid int) (vassal.Hook, error) {
	c, err := Parse(h)
	if err != nil {
		return h, err
	}
	if c.Kind != Chown && c.Kind != Chown2 {
		return h, fmt.Errorf("action %s has no names", c.Kind)
	}
	h.Action, h.Arg = string(Chown2), fmt.Sprintf("%s %d %d", c.Path, uid, gid)
	return h, nil
}

// number returns s as an id, or -1. The id 4294967295 means "unchanged" to
// the kernel and is none.
func number(s string) int {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 1<<32-1 {
		return -1
	}
	return int(n)
}

func list() string {
	var s []string
	for _, k := range Kinds() {
		s = append(s, string(k))
	}
	return strings.Join(s, " ")
}

func flagList(known map[string]string) string {
	var s []string
	for k := range known {
		s = append(s, k)
	}
	slices.Sort(s)
	return strings.Join(s, " ")
}

func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}
