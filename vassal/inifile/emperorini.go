package inifile

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	"liege/vassal"
	"liege/vassal/mail"
)

// EmperorConfig is what /etc/liege/emperor.ini says, with the defaults where it
// says nothing. Every member is also a flag of liege emperor, which wins.
type EmperorConfig struct {
	Vassals      []string // directories and glob patterns
	RunDir       string
	LogDir       string
	StateDir     string
	Cgroup       string        // where the vassals' cgroups are made; empty: at the Emperor's own
	LogFormat    string        // "text" or "json"
	ControlGroup string        // who may use control.sock besides root; empty: nobody
	Concurrency  int           // starts at once; 0: twice the number of CPUs
	Touch        bool          // a changed mtime alone reloads
	Rescan       time.Duration // longest time until a change is seen without inotify
	SELinux      string        // "refuse" or "warn"
	// ContextTemplate is the SELinux context of vassals that name none; empty:
	// none.
	ContextTemplate   string
	ContextTemplateAt vassal.Origin
	Etc               []string // more names of /etc that vassals see
	DenyGroups        []string // nil: the built-in list
	Tyrant            bool     // operator's files are refused
	// The vassals' addresses with net = nat; NATPool6 is not valid: none.
	NATPool, NATPool6 netip.Prefix

	OnDemand OnDemandSource

	Ceilings Ceilings
	Policy   Policy // for Decode

	// DefaultUID is [defaults] uid.
	DefaultUID string
	// Defaults is this text if it has a section [defaults]: the lines are read
	// before each vassal's own, with the vassal's names for %n and its kin.
	Defaults Layered
	Set      []Preset      // vassal-set, and the vassals' hooks
	Hooks    []vassal.Hook // the Emperor's own
	// Files that are read before and after each vassal's own.
	IncludeBefore, InheritBefore, Include, Inherit []string
}

// OnDemandSource says where the socket that wakes a vassal is named. Without a
// Key nowhere.
type OnDemandSource struct {
	Key   string // OnDemandExtension, OnDemandDirectory or OnDemandExec
	Value string
	At    vassal.Origin
}

// The keys of an OnDemandSource: the first that is configured counts.
const (
	OnDemandExtension = "emperor-on-demand-extension"
	OnDemandDirectory = "emperor-on-demand-directory"
	OnDemandExec      = "emperor-on-demand-exec"
)

// Ceilings are what no vassal may pass. An empty list means: for an operator's
// file anything, for a tenant's nothing but what every tenant may.
type Ceilings struct {
	Root    bool
	MinUID  int
	Net     []string
	Listen  []string
	Connect []string
	Egress  []vassal.Egress // targets
	Bind    []string
	Mail    mail.Caps // with %U for the user's name
}

// The defaults of [emperor] nat-pool and nat-pool6.
const (
	DefaultNATPool  = "10.213.0.0/16"
	DefaultNATPool6 = "fd6c:6965:6765::/64"
)

// ReadOptions is what Read needs of c.
func (c *EmperorConfig) ReadOptions() ReadOptions {
	o := ReadOptions{
		Known: Known, Set: c.Set,
		IncludeBefore: c.IncludeBefore, InheritBefore: c.InheritBefore, Include: c.Include, Inherit: c.Inherit,
	}
	if c.Defaults.Text != nil {
		o.Before = []Layered{c.Defaults}
	}
	return o
}

// DefaultEmperorConfig is the configuration without a file.
func DefaultEmperorConfig() EmperorConfig {
	return EmperorConfig{
		Vassals: []string{"/etc/vassals"}, RunDir: "/run/liege", LogDir: "/var/log/liege", StateDir: "/var/lib/liege",
		LogFormat: "text", Touch: true, Rescan: 3 * time.Second, SELinux: "refuse", Ceilings: Ceilings{MinUID: 1000},
		NATPool: netip.MustParsePrefix(DefaultNATPool), NATPool6: netip.MustParsePrefix(DefaultNATPool6),
	}
}

// An EmperorOption is one key of emperor.ini. Any option of the table may
// stand in [defaults] too.
type EmperorOption struct {
	Section, Name string
	Type          Type
	Many          bool
	Default       string
	Doc           string
}

// EmperorOptions returns the keys of emperor.ini.
func EmperorOptions() []EmperorOption {
	return append([]EmperorOption{
		{"emperor", "vassals", String, true, "/etc/vassals", "Directory or glob pattern whose .ini files are vassals; several to a line. Directories on the command line replace them."},
		{"emperor", "run-dir", String, false, "/run/liege", "Directory of control.sock and of what lives as long as the vassals."},
		{"emperor", "log-dir", String, false, "/var/log/liege", "Directory of the vassals' logs."},
		{"emperor", "state-dir", String, false, "/var/lib/liege", "Directory of what survives a reboot."},
		{"emperor", "cgroup", String, false, "the Emperor's own", "Cgroup of a unit with Delegate=yes below which the vassals' cgroups are made, so that systemd can start a killed Emperor again while they run (operations.md)."},
		{"emperor", "log-format", String, false, "text", "Format of the Emperor's own log: text or json."},
		{"emperor", "control-group", String, false, "", "Group that may do with control.sock what root may, but enter; a user who runs a vassal sees and reloads that without it."},
		{"emperor", "start-concurrency", Int, false, "twice the number of CPUs", "How many vassals may be between decision and ready at once."},
		{"emperor", "touch", String, false, "reload", "What a changed time alone does: reload or ignore."},
		{"emperor", "rescan", Duration, false, "3", "Longest time until a change is seen where the file system does not announce it."},
		{"emperor", "selinux", String, false, "refuse", "What happens to a file that asks for a context where SELinux is off or permissive: refuse or warn."},
		{"emperor", "context-template", String, false, "", "SELinux context of vassals that name none, tenants' too: %n is the vassal's name, %c a pair of categories that no other user has (selinux.md)."},
		{"emperor", "etc", String, true, "", "More names below /etc that every vassal sees read-only."},
		{"emperor", "deny-groups", String, true, "root sudo wheel adm docker lxd libvirt kvm disk shadow", "Supplementary groups that no vassal keeps; the line replaces the list."},
		{"emperor", "nat-pool", String, false, DefaultNATPool, "Network, at least a /24, whose addresses the vassals with net = nat get (network.md)."},
		{"emperor", "nat-pool6", String, false, DefaultNATPool6, "The same of IPv6, a /96 or larger, where the host has IPv6; no: none."},
		{"emperor", "tyrant", Bool, false, "false", "Refuse files that belong to root: every vassal runs as its file's owner."},
		{"emperor", "strict", Bool, false, "false", "Unknown options are errors in every vassal file."},
		{"ceilings", "memory-max", Size, false, "none", "Memory that no vassal may pass, and the limit of those that name none."},
		{"ceilings", "cpu-max", Number, false, "none", "CPUs, likewise."},
		{"ceilings", "pids-max", Int, false, "none", "Processes and threads, likewise."},
		{"ceilings", "swap-max", Size, false, "none", "Swap that no vassal may pass; 0 is none at all."},
		{"ceilings", "cpu-weight", Int, false, "100 for tenants' files", "The largest share of the CPUs that a file may ask for."},
		{"ceilings", "net", String, true, "", "Networks besides none that vassals may have; without a line operators' files may have all, tenants' none."},
		{"ceilings", "listen", String, true, "", "Addresses that tenants' files may listen on: HOST:PORT, HOST:FROM-TO, /path/*.sock, /path/**; * for any host or port."},
		{"ceilings", "connect", String, true, "", "Addresses that tenants' files may connect to: ADDRESS:PORT, ADDRESS:FROM-TO, NETWORK/BITS:PORT, unix:/path, unix:/path/*.sock, unix:/path/**."},
		{"ceilings", "egress", String, true, "", "Closed targets that tenants' files may open with egress lines: ADDRESS, NETWORK/BITS or any, with :PORT or :FROM-TO."},
		{"ceilings", "sendmail-sender", String, true, "anybody", "Whom mail of vassals may come from: ADDRESS, *@DOMAIN, *@*.DOMAIN, <> for bounces; %U is the user's name (mail.md)."},
		{"ceilings", "sendmail-rate", String, false, "none", "How many recipients mail of one user's vassals may have: N/s, N/m, N/h or N/d."},
		{"ceilings", "bind", String, true, "/home /srv /opt /var/www", "Directories below which tenants' files may bind."},
		{"ceilings", "min-uid", Int, false, "1000", "Files of users below this uid are refused."},
		{"ceilings", "root", Bool, false, "false", "Whether an operator's file may say uid = root."},
	}, emperorHooks()...)
}

// DecodeEmperor reads emperor.ini as it lies at file. All problems are
// reported at once; the config has defaults where a line is wrong. [uwsgi] is
// read too for the keys that an Emperor of uWSGI knows.
func DecodeEmperor(file string, text []byte) (EmperorConfig, vassal.Problems) {
	d := &emperorDecoder{decoder: decoder{f: &File{Source: Source{Path: file, Trust: vassal.Trust{Operator: true}}}}, c: DefaultEmperorConfig(), text: text}
	d.unknownSections()
	for _, section := range emperorSections {
		for _, s := range d.lines(section) {
			d.key(section, s)
		}
	}
	d.finishText()
	return d.c, d.problems()
}

// emperorDecoder is one call of DecodeEmperor.
type emperorDecoder struct {
	decoder
	c    EmperorConfig
	text []byte
	set  bool // a vassals line was seen: the default is replaced

	started vassal.Origin // the vassals-start-hook line that counts
}

// key handles one line.
func (d *emperorDecoder) key(section string, s Setting) {
	switch section {
	case "uwsgi":
		d.uwsgi(s)
	case "defaults":
		d.defaults(s)
	default:
		i := slices.IndexFunc(EmperorOptions(), func(o EmperorOption) bool { return o.Section == section && o.Name == s.Key })
		if i < 0 {
			d.unknownKey(section, s)
			return
		}
		o := EmperorOptions()[i]
		v, ok := d.value(&Option{Name: o.Name, Type: o.Type, Since: "liege"}, s)
		if !ok || o.Type == Bool && !d.plain(v) {
			return
		}
		if section == "ceilings" {
			d.ceilingKey(v)
		} else {
			d.emperorKey(v)
		}
	}
}

func (d *emperorDecoder) unknownKey(section string, s Setting) {
	best := ""
	for _, o := range EmperorOptions() {
		if o.Section == section && "emperor-"+o.Name == s.Key { // uWSGI's name of it
			d.err(vassal.CodeUnknownOption, s, fmt.Sprintf("unknown in [%s]: there it is %s", section, o.Name), o.Name+" = "+cmp.Or(clip(s.Value), "true"))
			return
		}
		if o.Section == section && distance(o.Name, s.Key) <= 2 {
			best = o.Name
		}
	}
	if best != "" {
		d.err(vassal.CodeUnknownOption, s, fmt.Sprintf("unknown in [%s]; did you mean %s?", section, best), best+" = …")
		return
	}
	hint := ""
	if _, ok := Lookup(s.Key); ok {
		hint = "an option of vassals stands in [defaults]"
	}
	d.err(vassal.CodeUnknownOption, s, fmt.Sprintf("unknown in [%s]", section), hint)
}

// emperorKey handles [emperor].
func (d *emperorDecoder) emperorKey(v value) {
	c := &d.c
	switch v.opt.Name {
	case "vassals":
		d.vassals(strings.Fields(v.Value), v.Setting)
	case "run-dir":
		c.RunDir = d.dir(v)
	case "log-dir":
		c.LogDir = d.dir(v)
	case "state-dir":
		c.StateDir = d.dir(v)
	case "cgroup":
		c.Cgroup = d.dir(v)
	case "log-format":
		c.LogFormat = d.word(v, c.LogFormat, "text", "json")
	case "control-group":
		c.ControlGroup = firstWord(v.Value)
	case "start-concurrency":
		c.Concurrency = d.within(v, 1, 1<<16, "start-concurrency = 4")
	case "touch":
		c.Touch = d.word(v, "reload", "reload", "ignore") == "reload"
	case "rescan":
		c.Rescan = max(100*time.Millisecond, d.positive(v, c.Rescan))
	case "selinux":
		c.SELinux = d.word(v, c.SELinux, "refuse", "warn")
	case "context-template":
		d.contextTemplate(v)
	case "etc":
		d.etc(v)
	case "deny-groups":
		c.DenyGroups = append(c.DenyGroups, strings.Fields(v.Value)...)
	case "nat-pool":
		c.NATPool = d.pool(v, 24, DefaultNATPool)
	case "nat-pool6":
		if firstWord(v.Value) == "no" {
			c.NATPool6 = netip.Prefix{}
			return
		}
		c.NATPool6 = d.pool(v, 96, DefaultNATPool6)
	case "tyrant":
		c.Tyrant = v.on
	case "strict":
		c.Policy.Strict = v.on
	default:
		d.hookKey(v)
	}
}

// pool reads a network of at most so many bits.
func (d *emperorDecoder) pool(v value, bits int, usual string) netip.Prefix {
	p, err := netip.ParsePrefix(firstWord(v.Value))
	if err != nil || p.Addr().Is4() != netip.MustParsePrefix(usual).Addr().Is4() || p.Addr().Is4In6() || p.Bits() > bits || p != p.Masked() || p.Bits() < 8 {
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not a network with 8 to %d bits", clip(v.Value), bits), v.opt.Name+" = "+usual)
	}
	return p
}

// contextTemplate refuses what would be no context for any vassal.
func (d *emperorDecoder) contextTemplate(v value) {
	t := strings.TrimSpace(v.Value)
	plain := strings.NewReplacer("%n", "", "%c", "", "%%", "").Replace(t)
	if t != "" && (strings.Count(t, ":") < 2 || strings.ContainsAny(t, " \t") || strings.Contains(plain, "%")) {
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not the form of an SELinux context", clip(t)), "system_u:system_r:webapp_%n_t:s0, or system_u:system_r:webapp_shared_t:s0:%c")
		return
	}
	d.c.ContextTemplate, d.c.ContextTemplateAt = t, v.Origin
}

// vassals adds sources; the first line replaces the default.
func (d *emperorDecoder) vassals(sources []string, s Setting) {
	if !d.set {
		d.c.Vassals, d.set = nil, true
	}
	for _, src := range sources {
		if plain := strings.TrimPrefix(strings.TrimPrefix(src, "glob://"), "dir://"); !path.IsAbs(plain) {
			d.err(vassal.CodeBadValue, s, fmt.Sprintf("%q is not an absolute path", clip(src)), "/etc/vassals, or glob:///srv/*/uwsgi.ini")
			continue
		}
		d.c.Vassals = append(d.c.Vassals, src)
	}
}

func (d *emperorDecoder) dir(v value) string {
	if !path.IsAbs(v.Value) {
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not an absolute path", clip(v.Value)), "")
	}
	return path.Clean(v.Value)
}

func (d *emperorDecoder) word(v value, def string, words ...string) string {
	w := firstWord(v.Value)
	if slices.Contains(words, w) {
		return w
	}
	d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not one of %s", clip(w), strings.Join(words, ", ")), v.opt.Name+" = "+words[0])
	return def
}

// etc takes names below /etc, with or without the directory.
func (d *emperorDecoder) etc(v value) {
	for name := range strings.FieldsSeq(v.Value) {
		name = strings.TrimPrefix(name, "/etc/")
		if clean := path.Clean(name); path.IsAbs(name) || clean == "." || clean == ".." || strings.HasPrefix(clean, "../") {
			d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not a name below /etc", clip(name)), "etc = myapp myapp.conf")
			continue
		}
		d.c.Etc = append(d.c.Etc, path.Clean(name))
	}
}

// uwsgi handles the keys of an Emperor's [uwsgi]; what else stands there is
// about uWSGI's own processes and has no meaning here.
func (d *emperorDecoder) uwsgi(s Setting) {
	c := &d.c
	switch s.Key {
	case "emperor":
		d.vassals([]string{s.Value}, s)
	case "emperor-tyrant":
		c.Tyrant = s.Bare || !isFalse(firstWord(s.Value))
	case "vassal-set", "vassals-set":
		k, val, ok := strings.Cut(s.Value, "=")
		if !ok || k == "" {
			d.err(vassal.CodeBadValue, s, "not written as key=value", s.Key+" = processes=2")
			return
		}
		o := s.Origin
		o.Layer = vassal.Defaults
		c.Set = append(c.Set, Preset{Key: k, Value: val, Origin: o})
	case OnDemandExtension, "emperor-on-demand-ext":
		d.onDemand(OnDemandExtension, s)
	case OnDemandDirectory, "emperor-on-demand-dir":
		d.onDemand(OnDemandDirectory, s)
	case OnDemandExec:
		d.onDemand(OnDemandExec, s)
	case "vassals-include-before":
		c.IncludeBefore = append(c.IncludeBefore, s.Value)
	case "vassals-inherit-before":
		c.InheritBefore = append(c.InheritBefore, s.Value)
	case "vassals-include":
		c.Include = append(c.Include, s.Value)
	case "vassals-inherit":
		c.Inherit = append(c.Inherit, s.Value)
	case "vassals-start-hook":
		d.startHook(s)
	case "master", "strict", "die-on-term":
		d.note(vassal.CodeDoneOtherwise, s, "Liege's Emperor has its own way: failures back off one by one, and liege ls --json shows the state")
	default:
		if slices.ContainsFunc(emperorHooks(), func(o EmperorOption) bool { return o.Name == s.Key }) {
			d.key("emperor", s)
			return
		}
		d.ofTable(s)
	}
}

// onDemand handles what says which vassals sleep.
func (d *emperorDecoder) onDemand(key string, s Setting) {
	v := strings.TrimSpace(s.Value)
	switch {
	case v == "":
		d.err(vassal.CodeBadValue, s, "is empty", "")
		return
	case key == OnDemandExtension && (strings.Contains(v, "/") || strings.HasSuffix(v, ".ini")):
		d.err(vassal.CodeBadValue, s, fmt.Sprintf("%q is no suffix of a file that is no vassal itself", clip(v)), key+" = .socket")
		return
	case key != OnDemandExtension && !path.IsAbs(v):
		d.err(vassal.CodeBadValue, s, fmt.Sprintf("%q is not an absolute path", clip(v)), "")
		return
	case key == OnDemandExec && strings.ContainsAny(v, "\"'`$;|&<>()*?"):
		d.err(vassal.CodeRefused, s, "there is no shell: it is a program and its arguments, separated by blanks", "write a script, and name that")
		return
	}
	order := []string{OnDemandExec, OnDemandDirectory, OnDemandExtension}
	if slices.Index(order, key) >= slices.Index(order, d.c.OnDemand.Key) {
		d.c.OnDemand = OnDemandSource{Key: key, Value: v, At: s.Origin}
	}
}

// defaults checks the names of [defaults]; the values are read with each
// vassal.
func (d *emperorDecoder) defaults(s Setting) {
	if d.c.Defaults.Text == nil {
		d.c.Defaults = Layered{Path: d.f.Source.Path, Section: "defaults", Text: d.text, Layer: vassal.Defaults}
	}
	if s.Key == "uid" {
		d.c.DefaultUID = s.Value
	}
	if _, ok := Lookup(s.Key); ok || bytes.Contains(d.text, []byte("%("+s.Key)) {
		return
	}
	if near := misspelt(s.Key); near != "" { // any other word may be one that vassals refer to
		d.warn(vassal.CodeUnknownOption, s, fmt.Sprintf("unknown; did you mean %s?", near), near+" = …")
	}
}

// lines are those of one section, as written.
func (d *emperorDecoder) lines(section string) []Setting {
	at := func(num int) Setting { return Setting{Origin: vassal.Origin{File: d.f.Source.Path, Line: num}} }
	say := func(sev vassal.Severity) func(int, string, string, string) {
		return func(num int, code, msg, hint string) {
			if !slices.ContainsFunc(d.ps, func(p vassal.Problem) bool { return p.Line == num && p.Code == code && p.Message == msg }) {
				d.add(sev, code, at(num), msg, hint)
			}
		}
	}
	x := lexer{wanted: []string{section}, report: say(vassal.Error), note: say(vassal.Note)}
	ls, _ := x.lex(d.text)
	var out []Setting
	for _, l := range ls {
		s := at(l.num)
		s.Key, s.Value, s.Bare = l.key, l.value, l.bare
		out = append(out, s)
	}
	return out
}
