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

// Kind is an action's name as written, "chdir" and "log" replaced by the older
// names "cd" and "print".
type Kind string

// The actions of this release.
const (
	Exec     Kind = "exec"     // COMMAND, run by /bin/sh -c
	Write    Kind = "write"    // FILE TEXT
	Writen   Kind = "writen"   // FILE TEXT, a newline follows
	Mkdir    Kind = "mkdir"    // DIR; it must not exist
	Chown    Kind = "chown"    // FILE USER GROUP; names until resolved
	Chown2   Kind = "chown2"   // FILE UID GID
	Chmod    Kind = "chmod"    // FILE MODE
	Mount    Kind = "mount"    // FSTYPE WHAT WHERE [FLAG,FLAG] [DATA]
	Umount   Kind = "umount"   // WHERE [FLAG,FLAG]
	Hostname Kind = "hostname" // NAME
	Cd       Kind = "cd"       // DIR
	Putenv   Kind = "putenv"   // NAME=VALUE
	Unlink   Kind = "unlink"   // FILE
	Print    Kind = "print"    // TEXT
	Setcon   Kind = "callret"  // setcon CONTEXT
)

// Kinds are all actions, in the order of the documentation.
func Kinds() []Kind {
	return []Kind{Exec, Write, Writen, Mkdir, Chown, Chown2, Chmod, Mount, Umount, Hostname, Cd, Putenv, Unlink, Print, Setcon}
}

// later are actions of uWSGI that this release knows and does not run.
var later = []string{"safeexec", "create", "creat", "append", "appendn", "writefifo", "spinningfifo", "sticky", "call",
	"callint", "callintret", "alarm", "rpc", "retryrpc", "wait_for_fs", "wait_for_file", "wait_for_dir",
	"wait_for_socket", "unix_signal", "exit", "ffi", "tcc", "perl"}

// Call is an action with its arguments. Which fields are set depends on Kind.
type Call struct {
	Kind        Kind
	Path        string   // FILE, DIR, WHERE
	Text        string   // COMMAND, TEXT, NAME, NAME=VALUE, CONTEXT, mount data
	Mode        uint32   // of Chmod, as chmod(2) wants it
	User, Group string   // of Chown
	UID, GID    int      // of Chown2, and of Chown with numbers; else -1
	FSType      string   // of Mount
	Source      string   // of Mount
	Flags       []string // of Mount and Umount: one spelling each
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
	c := Call{Kind: Kind(h.Action), UID: -1, GID: -1}
	switch h.Action {
	case "chdir":
		c.Kind = Cd
	case "log":
		c.Kind = Print
	}
	if strings.ContainsRune(h.Arg, 0) {
		return Call{}, errors.New("a NUL byte in the argument")
	}
	if len(h.Arg) > MaxArg {
		return Call{}, fmt.Errorf("the argument has %d bytes; at most %d are allowed", len(h.Arg), MaxArg)
	}
	if err := c.check(h.Phase); err != nil {
		return Call{}, err
	}
	if err := c.parse(h.Arg); err != nil {
		if h.Private {
			return Call{}, fmt.Errorf("want %s (the argument is private)", usage[c.Kind])
		}
		return Call{}, err
	}
	return c, nil
}

// check reports whether c may run in phase at all.
func (c *Call) check(phase vassal.Phase) error {
	if slices.Contains(later, string(c.Kind)) {
		return fmt.Errorf("action %q does not exist yet; use exec", c.Kind)
	}
	if !slices.Contains(Kinds(), c.Kind) {
		return fmt.Errorf("unknown action %q; the actions are %s", clip(string(c.Kind)), list())
	}
	if phase == vassal.AsUser {
		switch c.Kind {
		case Mount, Umount, Hostname, Chown, Chown2:
			return fmt.Errorf("%s needs root; use hook-as-root", c.Kind)
		}
	}
	if phase == vassal.AsRoot && c.Kind == Setcon {
		return errors.New("setcon comes after the privileges are dropped; use hook-as-user")
	}
	return nil
}

// usage is the form of each action's arguments.
var usage = map[Kind]string{
	Exec: "exec:COMMAND", Write: "write:FILE TEXT", Writen: "writen:FILE TEXT", Mkdir: "mkdir:DIR",
	Chown: "chown:FILE USER GROUP", Chown2: "chown2:FILE UID GID", Chmod: "chmod:FILE MODE (octal)",
	Mount: "mount:FSTYPE WHAT WHERE [FLAG,FLAG] [DATA]", Umount: "umount:WHERE [FLAG,FLAG]",
	Hostname: "hostname:NAME", Cd: "cd:DIR", Putenv: "putenv:NAME=VALUE", Unlink: "unlink:FILE",
	Print: "print:TEXT", Setcon: "callret:setcon CONTEXT",
}

func (c *Call) parse(arg string) error {
	want := fmt.Errorf("want %s", usage[c.Kind])
	switch c.Kind {
	case Exec:
		c.Text = strings.TrimSpace(arg)
		if c.Text == "" {
			return want
		}
	case Print:
		c.Text = arg
	case Write, Writen:
		var ok bool
		c.Path, c.Text, ok = strings.Cut(strings.TrimLeft(arg, " \t"), " ")
		if c.Path == "" || !ok && c.Kind == Write {
			return want
		}
	case Mkdir, Cd, Unlink:
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
		if len(f) == 0 || f[0] != "setcon" {
			return fmt.Errorf("callret knows only setcon; %w", want)
		}
		if len(f) != 2 {
			return want
		}
		c.Text = f[1]
	default:
		return c.words(strings.Fields(arg), want)
	}
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
