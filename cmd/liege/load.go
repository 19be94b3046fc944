package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"liege/emperor/dirmon"
	"liege/emperor/expand"
	"liege/emperor/record"
	"liege/emperor/resolve"
	hostnet "liege/sandbox/network"
	"liege/selinux"
	"liege/vassal"
	"liege/vassal/inifile"
	"liege/vassal/regular"
)

const (
	defaultConfig  = "/etc/liege/emperor.ini"
	defaultVassals = "/etc/vassals"
)

// checked is one file with what was found about it.
type checked struct {
	File     string          `json:"file"`
	Name     vassal.Name     `json:"name"`
	Digest   string          `json:"digest"`
	Problems vassal.Problems `json:"problems"`

	trust  string
	reads  []string
	result *resolve.Result
	certs  map[string]string // what a certificate is for, by its path
}

// loader turns files into what would run, as the Emperor does.
type loader struct {
	app     *app
	opts    checkOptions
	emperor inifile.EmperorConfig
	given   []string // directories to check as if the Emperor with emperor's settings had been given them too
}

// newLoader reads the operator's settings. That they are not there is fine,
// unless a flag names them.
func (a *app) newLoader(o checkOptions) (*loader, error) {
	l := &loader{app: a, opts: o}
	path := or(o.config, defaultConfig)
	text, err := readRegular(path)
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist) && o.config == "", errors.Is(err, fs.ErrPermission) && o.config == "":
		text = nil
	default:
		return nil, exitWith(exitNone, vassal.CodeUnreadable, fmt.Sprintf("--config %s: %s", path, plain(err)), "")
	}
	cfg, problems := inifile.DecodeEmperor(absolute(path), text)
	l.emperor = cfg
	if problems.Failed() {
		return nil, &exit{code: exitConfig, problems: problems}
	}
	return l, nil
}

// config is the path of the operator's settings.
func (l *loader) config() string { return or(l.opts.config, defaultConfig) }

// readRegular reads a regular file of at most inifile.MaxFile bytes, and never
// waits.
func readRegular(path string) ([]byte, error) {
	f, err := regular.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, _, err := readOpen(f)
	return text, err
}

func readOpen(f *os.File) ([]byte, fs.FileInfo, error) {
	fi, err := f.Stat()
	switch {
	case err != nil:
		return nil, nil, err
	case fi.Size() > inifile.MaxFile:
		return nil, nil, fmt.Errorf("larger than %d bytes", inifile.MaxFile)
	}
	text, err := io.ReadAll(io.LimitReader(f, inifile.MaxFile+1))
	return text, fi, err
}

// vassalFile is the file of a vassal as it was when it was open.
type vassalFile struct {
	text   []byte
	info   fs.FileInfo
	shared *vassal.Problem // others can write it: for root it is nobody's word
}

// readVassal is readRegular for the file of a vassal: root follows a link only as
// the Emperor would (CONTRACT 1).
func readVassal(path string) (v vassalFile, err error) {
	f, err := openVassal(path)
	if err != nil {
		return v, err
	}
	defer f.Close()
	if os.Geteuid() == 0 {
		v.shared = dirmon.Shared(f, absolute(path))
	}
	v.text, v.info, err = readOpen(f)
	return v, err
}

func openVassal(path string) (*os.File, error) {
	if os.Geteuid() != 0 {
		return regular.Open(path)
	}
	at, err := holdVassal(path)
	if err != nil {
		return nil, err
	}
	defer at.Close()
	return regular.Reopen(at)
}

// holdVassal takes hold of the file (O_PATH).
func holdVassal(path string) (*os.File, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
	switch {
	case errors.Is(err, unix.ELOOP):
		at, _, err := dirmon.OpenSafe(absolute(path))
		return at, err
	case err != nil:
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// named is the host for what root serves: the file that root names may lie in any
// directory, what it names itself only where the Emperor would read it.
type named struct {
	dirmon.Host
	file string
}

// ReadFile implements inifile.Host.
func (h named) ReadFile(path string) (inifile.HostFile, error) {
	if path != h.file {
		return h.Host.ReadFile(path)
	}
	at, err := holdVassal(path)
	if err != nil {
		return inifile.HostFile{}, err
	}
	defer at.Close()
	return inifile.ReadOpen(at)
}

// callers is the host for somebody who is not root: nothing runs with more than
// their rights, so what they name is believed as their own, whoever's file it is.
type callers struct{ *inifile.OSHost }

// ReadFile implements inifile.Host.
func (h callers) ReadFile(path string) (inifile.HostFile, error) {
	f, err := h.OSHost.ReadFile(path)
	f.Operator = true
	return f, err
}

func plain(err error) string {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err.Error()
	}
	return err.Error()
}

func absolute(p string) string {
	if abs, err := filepath.Abs(p); err == nil {
		return abs
	}
	return p
}

// files checks a file, standard input (-), or the vassals of a directory.
func (l *loader) files(ctx context.Context, arg string) ([]checked, error) {
	if fi, err := os.Stat(arg); arg == "-" || err != nil || !fi.IsDir() {
		f, err := l.file(ctx, arg)
		return []checked{f}, err
	}
	if l.opts.config != "" {
		l.given = append(l.given, absolute(arg))
	}
	entries, err := os.ReadDir(arg)
	if err != nil {
		return nil, exitWith(exitNone, vassal.CodeUnreadable, fmt.Sprintf("%s: %s", arg, plain(err)), "")
	}
	var out []checked
	folded := map[string]string{}
	for _, e := range entries {
		p := filepath.Join(arg, e.Name())
		if strings.HasPrefix(e.Name(), ".") || filepath.Ext(p) != ".ini" {
			if slices.Contains([]string{".yml", ".yaml", ".xml", ".json", ".js"}, filepath.Ext(p)) {
				out = append(out, checked{File: p, Problems: vassal.Problems{{Severity: vassal.Warning, Code: vassal.CodeNotSupported, File: p, Message: "not supported: write ini"}}})
			}
			continue
		}
		f, err := l.file(ctx, p)
		if err != nil {
			f = checked{File: p, Problems: vassal.AsProblems(err, "", vassal.CodeUnreadable)}
		}
		if first, taken := folded[strings.ToLower(e.Name())]; taken {
			f.Problems = append(f.Problems, vassal.Problem{Severity: vassal.Error, Code: vassal.CodeSameName, File: p, Message: "differs from " + first + " in upper and lower case only"})
		}
		folded[strings.ToLower(e.Name())] = e.Name()
		out = append(out, f)
	}
	return out, nil
}

// file checks one file, or standard input.
func (l *loader) file(ctx context.Context, arg string) (checked, error) {
	path, section := inifile.SplitSection(arg)
	var v vassalFile
	var err error
	trust := vassal.Trust{Operator: true}
	if arg == "-" {
		path = "-"
		if v.text, err = io.ReadAll(io.LimitReader(l.app.in, inifile.MaxFile+1)); err != nil {
			return checked{}, err
		}
	} else if v, err = readVassal(path); err != nil {
		return checked{}, exitWith(exitNone, vassal.CodeUnreadable, fmt.Sprintf("%s: %s", path, plain(err)), "")
	}
	if path == l.config() || inifile.IsEmperor(v.text) {
		cfg, ps := inifile.DecodeEmperor(path, v.text)
		if g := cfg.ControlGroup; g != "" && !l.opts.syntax {
			if _, err := (resolve.Files{}).Group(g); err != nil { // the Emperor would not start
				ps = append(ps, vassal.Problem{Severity: vassal.Error, Code: vassal.CodeNoSuchGroup, File: path, Key: "control-group", Message: err.Error(), Hint: "groupadd --system " + g})
			}
		}
		return checked{File: path, Problems: ps}, nil
	}
	if v.shared != nil && l.opts.tenant == "" {
		return checked{File: path, trust: "nobody's file: it is not read", Problems: vassal.Problems{*v.shared}}, nil
	}
	as := l.opts.as
	if as == "" {
		as = map[bool]string{true: "stdin.ini", false: path}[path == "-"]
	}
	as = absolute(as)
	said := "an operator's file"
	if path != "-" {
		trust, said = trustOf(v.info)
	}
	if l.opts.tenant != "" {
		u, err := resolve.Files{}.User(l.opts.tenant)
		if err != nil {
			return checked{}, exitWith(exitNone, vassal.CodeNoSuchUser, "--tenant "+err.Error(), "")
		}
		trust, said = vassal.Trust{UID: u.UID, GID: u.GID}, "a file of "+u.Name
	}
	s, done, err := l.askedBy(ctx, as, trust)
	if err != nil {
		p := vassal.Problem{Severity: vassal.Error, Code: vassal.CodeNoSuchUser, File: path, Message: err.Error(), Hint: "--tenant USER checks it as another's"}
		return checked{File: path, trust: said, Problems: vassal.Problems{p}}, nil
	}
	c := l.prepare(ctx, dirmon.NameOf(as, l.emperor.Vassals), inifile.Source{Path: as, Section: section, Text: v.text, Trust: trust}, s)
	if err := done(); err != nil { // what it did not answer was taken for "not there"
		return checked{}, exitWith(exitNone, vassal.CodeUnreadable, fmt.Sprintf("%s: %v", path, err), "")
	}
	c.trust = said
	if path != "-" && l.opts.as == "" && l.opts.tenant == "" && !l.opts.syntax {
		if p := dirmon.Judge(as, slices.Concat(l.emperor.Vassals, l.given), l.emperor.Tyrant); p != nil {
			c.Problems = append(c.Problems, *p)
		}
	}
	if arg != "-" && l.opts.as == "" {
		c.File = arg
	}
	return c, nil
}

// trustOf is as whom the Emperor would believe the file, if nobody but its owner
// can write it (CONTRACT 1). Someone who checks a file of their own, before it is
// installed, is told so once it is: here it counts as the operator's unless --tenant
// says otherwise.
func trustOf(fi fs.FileInfo) (vassal.Trust, string) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || st.Uid == 0 || os.Geteuid() != 0 {
		return vassal.Trust{Operator: true, GID: 0}, fmt.Sprintf("an operator's file (%s %04o)", ownerName(st), fi.Mode().Perm())
	}
	return vassal.Trust{UID: int(st.Uid), GID: int(st.Gid)}, fmt.Sprintf("a tenant's file (%s %04o)", ownerName(st), fi.Mode().Perm())
}

func ownerName(st *syscall.Stat_t) string {
	if st == nil {
		return "?"
	}
	if u, err := (resolve.Files{}).User(fmt.Sprint(st.Uid)); err == nil {
		return u.Name
	}
	return fmt.Sprint(st.Uid)
}

// askedBy are the settings for one file: what a user's asks of the host is answered,
// for root, by a child with the user's ids, as for the Emperor.
func (l *loader) askedBy(ctx context.Context, path string, trust vassal.Trust) (resolve.Settings, func() error, error) {
	s := l.settings(nil)
	if os.Geteuid() != 0 {
		return s, func() error { return nil }, nil
	}
	return expand.Settings{Prepare: s}.Of(ctx, path, trust)
}

// settings are those of the Emperor, with the host seen by the caller.
func (l *loader) settings(caller *resolve.Caller) resolve.Settings {
	s := resolve.FromEmperor(l.emperor, dirmon.Host{OSHost: inifile.NewOSHost(os.LookupEnv)}) // as the Emperor
	s.NoHost = l.opts.syntax
	s.Host.Caller = caller
	s.Host.SELinux.Enter = enterAs(caller != nil)
	s.Host.SELinux.Categories = resolve.NewPairs(filepath.Join(l.emperor.StateDir, resolve.PairsFile), 0).Look
	if p, err := selinux.Load(); err == nil && caller == nil {
		s.Host.SELinux.Label, s.Host.SELinux.Allows = selinux.PathContext, p.Allows
	}
	return s
}

// enterAs returns what asks the loaded policy about contexts: for liege serve,
// which starts the stage itself, from the caller's own context; else from that
// of the stage under an Emperor that systemd started, where the policy module
// is installed. Where it is not, a context need only be known: this shell runs
// as something else than the Emperor.
func enterAs(serve bool) func(context string, byExec bool) (string, error) {
	return func(context string, byExec bool) (string, error) {
		p, err := selinux.Load()
		if err != nil {
			if context == "" && errors.Is(err, selinux.ErrOff) {
				return "", nil
			}
			return "", err
		}
		from, module := p.Own(), false
		if !serve {
			from, module = p.StageHere()
		}
		if context == "" && !module {
			return "", nil
		}
		if !serve && !module {
			return p.Known(context)
		}
		core, err := sibling("liege-core")
		if err != nil {
			return "", err
		}
		return p.Reach(selinux.Target{From: from, Core: core, Default: "system_u:system_r:" + selinux.DefaultType + ":s0"}, context, byExec)
	}
}

// prepare is one file from bytes to a plan.
func (l *loader) prepare(ctx context.Context, base string, src inifile.Source, s resolve.Settings) checked {
	base = strings.TrimSuffix(filepath.Base(base), ".ini")
	name, err := vassal.ParseName(base)
	c := checked{File: src.Path, Name: name}
	if err != nil {
		name = vassal.SuggestName(base)
		c.Problems = vassal.Problems{{Severity: vassal.Error, Code: vassal.CodeBadName, File: src.Path, Message: err.Error(), Hint: "name it " + string(name) + ".ini"}}
	}
	p := resolve.Prepare(ctx, name, src, s)
	c.Digest, c.result = p.Digest.String(), p.Result
	c.Problems = append(c.Problems, p.Problems...)
	if p.Result != nil && s.Host.Caller == nil { // liege serve reads them at the start
		var more vassal.Problems
		c.certs, more = certificates(ctx, p.Result)
		c.Problems = append(append(c.Problems, more...), listeners(ctx, p.Result, s.Host.FS, record.Cgroup(l.emperor.RunDir))...)
		if p.Result.NAT != nil && os.Geteuid() == 0 { // others are not told
			c.Problems = append(append(c.Problems, p.Result.Blocked(hostnet.Blocked())...), p.Result.WillForward(hostnet.Unforwarded())...)
		}
	}
	for _, q := range p.Queries {
		if q.Kind == "file" && !slices.Contains(c.reads, q.Name) {
			c.reads = append(c.reads, q.Name)
		}
	}
	return c
}

// serve is what a line of liege serve would run.
func (l *loader) serve(ctx context.Context, line serveLine) checked {
	caller := &resolve.Caller{UID: os.Geteuid(), GID: os.Getegid(), Cwd: line.cwd, Virtualenv: line.venv, Path: os.Getenv("PATH")}
	s := l.settings(caller)
	if host := inifile.NewOSHost(os.LookupEnv); caller.UID == 0 {
		s.INI = named{dirmon.Host{OSHost: host}, line.file}
	} else {
		s.INI = callers{host}
	}
	s.Read.Operator = s.INI
	s.Policy.Serve = true
	s.Host.Alone, s.Host.Nameless = true, line.file == "" || !dirmon.Named(line.file, l.emperor.Vassals)
	const lineName = "command line"
	path := filepath.Join(line.cwd, lineName)
	s.Adjust = func(f *inifile.File) {
		for i := range f.Settings {
			o := &f.Settings[i].Origin
			if o.File != path {
				continue
			}
			if given := line.setting(o.Line); given != nil {
				*o = vassal.Origin{File: lineName, Line: given.number, Layer: given.layer}
			}
		}
	}
	c := l.prepare(ctx, line.name(), inifile.Source{Path: path, Text: line.text(), Cwd: line.cwd, Trust: vassal.Trust{Operator: true}}, s)
	c.File = line.file
	if r := c.result; r != nil && caller.UID == 0 && r.UID == 0 && len(r.Config.Lent) > 0 {
		at := r.Config.Lent[0]
		c.Problems = append(c.Problems, vassal.Problem{Severity: vassal.Error, Code: vassal.CodeNotForTenants, File: at.File, Line: at.Line, Message: "a user's file has a say in what would run as root", Hint: "uid = USER, or runuser -u USER -- liege serve FILE"})
	}
	for i := range c.Problems {
		if c.Problems[i].File == path { // no line of the file is to blame
			c.Problems[i].File = line.file
		}
	}
	return c
}
