package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"liege/emperor/resolve"
	"liege/vassal"
	"liege/vassal/egress"
)

func (a *app) explainCmd() *cobra.Command {
	var o checkOptions
	c := &cobra.Command{
		Use: "explain FILE", Short: "what would run, as whom, seeing what; starts nothing",
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := a.newLoader(o)
			if err != nil {
				return err
			}
			f, err := l.file(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			e := explanation(f, o.secrets)
			if a.json {
				if err := json.NewEncoder(a.out).Encode(e); err != nil {
					return err
				}
			} else {
				e.print(a.out)
			}
			if f.Problems.Failed() {
				return &exit{code: exitConfig, shown: true}
			}
			return nil
		},
	}
	o.flags(c, false)
	c.Flags().BoolVar(&o.secrets, "show-secrets", false, "show the values of env lines and of keys that look like passwords")
	return a.jsonFlag(c)
}

// explained is one value with where it comes from.
type explained struct {
	Value  string `json:"value"`
	Detail string `json:"detail,omitempty"`
	Origin string `json:"origin"`
}

// plan is explain's answer: one member for each heading.
type plan struct {
	OK       bool             `json:"ok"`
	File     string           `json:"file"`
	Name     vassal.Name      `json:"name"`
	Digest   string           `json:"digest"`
	Trust    string           `json:"trust"`
	Read     []string         `json:"read"`
	RunsAs   []explained      `json:"runs_as"`
	Runs     []explained      `json:"runs"`
	Listens  []explained      `json:"listens"`
	Network  []explained      `json:"network"`
	Sees     []explained      `json:"sees"`
	Outside  []explained      `json:"outside"`
	Limits   []explained      `json:"limits"`
	Hooks    []explained      `json:"hooks"`
	Rules    []explained      `json:"rules"`
	Environ  []explained      `json:"environment"`
	AlwaysSo []string         `json:"always_so"`
	Problems []vassal.Problem `json:"problems"`
}

func explanation(f checked, secrets bool) plan {
	r := f.result
	e := plan{
		OK: !f.Problems.Failed(), File: f.File, Name: f.Name, Digest: f.Digest, Trust: f.trust, Read: nonNil(f.reads),
		RunsAs: []explained{}, Runs: []explained{}, Listens: []explained{}, Network: []explained{}, Sees: []explained{}, Outside: []explained{},
		Limits: []explained{}, Hooks: []explained{}, Rules: []explained{}, Environ: []explained{}, AlwaysSo: []string{}, Problems: nonNil(f.Problems),
	}
	if r == nil {
		return e
	}
	e.RunsAs = append(e.RunsAs, runsAs(r))
	e.Runs = append(e.Runs, runs(r)...)
	for _, l := range r.Listen {
		detail := listenDetail(r, l)
		if l.TLS != nil {
			detail += "; " + certificateText(f, l.TLS)
		}
		e.Listens = append(e.Listens, explained{l.Address, detail, origin(l.At)})
	}
	e.Listens = append(e.Listens, serverNames(f)...)
	e.Network = append(e.Network, network(r)...)
	e.Sees = append(e.Sees, sees(r)...)
	e.Outside = append(e.Outside, outside(r)...)
	e.Limits = append(e.Limits, limits(r)...)
	for _, h := range r.Config.Hooks {
		text := h.Action + ":" + h.Arg
		if h.Private && !secrets {
			text = h.Action + ":…"
		}
		e.Hooks = append(e.Hooks, explained{string(h.Phase), text, origin(h.At)})
	}
	e.Rules = rules(r, secrets)
	ownEnv := len(r.App.Env) - len(r.Config.EnvAt) // what Liege sets comes first
	for i, kv := range r.App.Env {
		k, v, _ := strings.Cut(kv, "=")
		at := vassal.Origin{Layer: vassal.BuiltIn}
		if i >= ownEnv {
			at = r.Config.EnvAt[i-ownEnv]
			if !secrets {
				v = "…"
			}
		}
		e.Environ = append(e.Environ, explained{k, v, origin(at)})
	}
	for _, p := range f.Problems {
		if p.Code == vassal.CodeAlwaysSo {
			e.AlwaysSo = append(e.AlwaysSo, p.Key)
		}
	}
	return e
}

func origin(o vassal.Origin) string {
	switch {
	case o.Layer == vassal.BuiltIn:
		return string(o.Layer)
	case o.Line > 0 && o.Layer != "":
		return fmt.Sprintf("%s, %s:%d", o.Layer, o.File, o.Line)
	case o.Line > 0:
		return fmt.Sprintf("line %d", o.Line)
	case o.Layer != "":
		return string(o.Layer)
	}
	return "built in"
}

func runsAs(r *resolve.Result) explained {
	groups := []string{idText(r.Group, r.GID)}
	for _, g := range r.Groups {
		groups = append(groups, idText(g.Name, g.GID))
	}
	detail := strings.Join(groups, ", ")
	if len(r.Dropped) > 0 {
		var dropped []string
		for _, g := range r.Dropped {
			dropped = append(dropped, g.Name)
		}
		detail += "; not " + strings.Join(dropped, ", ")
	}
	detail += "; " + guardText(r.Config.Guard)
	if m := r.Maps; m != nil {
		detail += fmt.Sprintf("; a user namespace, whose root is uid %d on the host", m.Root)
	}
	if r.Plan.Context != "" {
		detail += "; SELinux " + r.Plan.Context + map[bool]string{true: " (entered by exec)", false: " (entered by setcon)"}[r.Plan.ByExec]
	}
	return explained{idText(r.User, r.UID), detail, or(origin(r.Config.Ident.UserAt), r.UIDFrom)}
}

// guardText says what the processes keep and may do.
func guardText(g vassal.Guard) string {
	caps := "no capabilities"
	if len(g.Caps) > 0 {
		var names []string
		for _, c := range g.Caps {
			names = append(names, vassal.CapabilityName(c))
		}
		caps = "capabilities " + strings.Join(names, " ")
	}
	return caps + ", no_new_privs, seccomp " + or(g.Seccomp, "default") + ifs(g.NoLandlock, ", no Landlock")
}

func idText(name string, id int) string {
	if name == "" {
		return strconv.Itoa(id)
	}
	return fmt.Sprintf("%s (%d)", name, id)
}

func runs(r *resolve.Result) []explained {
	w := r.App.Workers
	programs := append(ownServers(&r.App), cgiPrograms(r.App.CGI)...)
	if w == nil {
		if len(programs) > 0 {
			return programs
		}
		return []explained{{"no application", "static files only", "built in"}}
	}
	what := w.Interpreter
	at := vassal.Origin{Layer: vassal.BuiltIn}
	if p := w.Python; p != nil {
		at = p.At
		app := or(p.Module, p.File)
		if p.Callable != "" {
			app += ":" + p.Callable
		}
		if p.Form == vassal.FormEval {
			app = p.Key // the code is in the file, or it is none
		}
		what += ": " + app
	}
	if rb := w.Ruby; rb != nil {
		at, what = rb.At, what+": "+rb.File
	}
	if pl := w.Perl; pl != nil {
		at, what = pl.At, what+": "+pl.File
	}
	number := fmt.Sprintf("%d %s of %d %s", w.Processes, plural(w.Processes, "process", "processes"), w.Threads, plural(w.Threads, "thread", "threads"))
	if c := w.Cheaper.Least; c > 0 {
		number = fmt.Sprintf("%d to %s", c, number)
	}
	out := append([]explained{{what, number, origin(at)}}, mounted(r.App.Mounting, number)...)
	return append(out, programs...)
}

// mounted are the applications beside the first.
func mounted(m *vassal.Mounting, number string) (out []explained) {
	if m == nil || len(m.Mounts) < 2 {
		return nil
	}
	if m.OneForAll {
		number = "in the same processes"
	}
	for _, x := range m.Mounts[1:] {
		app := or(x.Module, x.File)
		if x.Callable != "" {
			app += ":" + x.Callable
		}
		out = append(out, explained{app + " below " + or(x.Point, "/"), number, origin(x.At)})
	}
	return out
}

// cgiPrograms are the directories of CGI programs, and what runs their files.
func cgiPrograms(c *vassal.CGI) (out []explained) {
	if c == nil {
		return nil
	}
	n := max(1, c.Processes) * max(1, c.Threads)
	for _, m := range c.Mounts {
		out = append(out, explained{"CGI programs " + m.Path, fmt.Sprintf("below %s, %d at once", or(m.Mount, "/"), n), origin(m.At)})
	}
	for _, h := range c.Helpers {
		out = append(out, explained{h.Command, "runs " + h.Ext, origin(h.At)})
	}
	return out
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

func listenDetail(r *resolve.Result, l vassal.Listener) string {
	d := string(l.Protocol)
	if l.Address[0] != '/' {
		return d
	}
	mode := 0o777 &^ r.Config.Jail.Umask
	if l.Mode != nil {
		mode = *l.Mode
	}
	owner := or(r.User, strconv.Itoa(r.UID)) + ":" + or(r.Group, strconv.Itoa(r.GID))
	return strings.Join(append([]string{fmt.Sprintf("%s  %04o %s", d, mode.Perm(), or(l.Chown, owner))}, whoConnects(r.Reach[l.Address])...), "; ")
}

// whoConnects says which web servers' users can connect to a socket.
func whoConnects(all []resolve.Reach) (out []string) {
	for _, x := range all {
		if x.Why == "" {
			out = append(out, x.User+" can connect")
		} else {
			out = append(out, x.User+" cannot connect: "+x.Why)
		}
	}
	return out
}

func network(r *resolve.Result) []explained {
	at := origin(r.Config.Jail.NetAt)
	out := []explained{{r.Net, "it may connect to", at}}
	switch {
	case r.Net == "host":
		out[0].Detail = "the host's own network: everything it reaches"
	case r.NAT != nil:
		out[0].Detail = "an address of its own, and the way out"
		out = append(out, egressOf(r)...)
	case len(r.Connect) == 0:
		out[0].Detail = "it may connect to nothing"
	}
	for _, c := range r.Connect {
		out = append(out, explained{c.Address, c.Key, origin(c.At)})
	}
	if m := r.Mail; m.Server.Key != "" {
		out = append(out, explained{"mail", m.String(), origin(m.Server.At)})
	}
	return out
}

// egressOf says what holds for connections by net = nat, in the order in which
// it is asked.
func egressOf(r *resolve.Result) (out []explained) {
	for _, e := range r.Config.Jail.Egress {
		out = append(out, explained{e.Target, map[bool]string{true: "allowed", false: "refused"}[e.Allow], origin(e.At)})
	}
	var servers []string
	for _, s := range r.NAT.Servers {
		servers = append(servers, s.String())
	}
	if len(servers) > 0 {
		out = append(out, explained{strings.Join(servers, " "), "port 53 allowed: name servers of the host", "built in"})
	}
	for _, port := range egress.MailPorts(!r.Mail.Caps.None()) {
		out = append(out, explained{fmt.Sprintf("any:%d", port), "refused", "built in"})
	}
	return append(out,
		explained{"private networks", "refused", "built in"},
		explained{"the host, other vassals, link-local", "refused, whatever a line says", "built in"},
		explained{"the rest", "allowed", "built in"})
}

func sees(r *resolve.Result) []explained {
	out := []explained{{"/usr, part of /etc", "read-only", "built in"}}
	if root := r.Root; root.Source != "" {
		detail := "read-only, as /"
		if r.Foreign != "" {
			detail += "; " + r.Foreign + ": root runs nothing of it"
		}
		out = []explained{{root.Source, detail, strings.TrimSuffix(root.Why+", "+origin(root.At), ", built in")}}
	}
	system := out[0]
	out = nil
	for _, b := range r.Binds {
		right := "read-only"
		if b.Writable {
			right = "read-write"
			if b.Why != "chdir" && b.Why != "bind" {
				right = "as " + or(r.User, strconv.Itoa(r.UID)) + " may"
			}
		}
		if b.IDMap {
			right += fmt.Sprintf(", uid %d on disk is the app's", b.UID)
		}
		if b.NoExec {
			right += ", nothing executed"
		}
		if b.Recurse {
			right += ", with what is mounted below"
		}
		out = append(out, explained{b.Target, right, strings.TrimSuffix(b.Why+", "+origin(b.At), ", built in")})
	}
	for _, t := range r.Tmpfs {
		out = append(out, explained{t.Target, "empty, in memory, at most " + size(&t.Size), "tmpfs, " + origin(t.At)})
	}
	return append(out, system, explained{"/tmp /var/tmp /dev/shm", "its own", "built in"})
}

func outside(r *resolve.Result) []explained {
	c := r.Config
	out := []explained{}
	if c.Logs.To != "" {
		out = append(out, explained{r.Outside(c.Logs.To), "log", origin(c.Logs.ToAt)})
	}
	if c.Logs.PidFile != "" {
		out = append(out, explained{r.Outside(c.Logs.PidFile), "pidfile", origin(c.Logs.PidFileAt)})
	}
	for i, t := range c.Touch {
		out = append(out, explained{filepath.Clean(r.Outside(t)), "touch-reload", origin(c.TouchAt[i])})
	}
	return out
}

func limits(r *resolve.Result) []explained {
	l := r.Config.Limits
	var out []explained
	add := func(set bool, what, v string, at vassal.Origin) {
		if set {
			out = append(out, explained{what, v, origin(at)})
		}
	}
	add(l.MemoryMax > 0, "memory", size(&l.MemoryMax), l.MemoryMaxAt)
	add(l.MemoryMax > 0 && r.Config.Restart.Overlap, "memory at a reload", "more by what the old generation uses, while it lives; it ends first where [ceilings] leaves too little", l.MemoryMaxAt)
	add(l.MemoryHigh > 0, "memory, slowed from", size(&l.MemoryHigh), l.MemoryHighAt)
	add(true, "swap", swapText(l), l.SwapMaxAt)
	add(l.OOMGroup, "out of memory", "ends the whole generation", l.OOMGroupAt)
	add(l.CPUWeight > 0, "share of the cpus", count(&l.CPUWeight)+" (the usual is 100)", l.CPUWeightAt)
	for _, m := range l.IOMax {
		out = append(out, explained{"device " + m.Device, ioText(m), origin(m.At)})
	}
	add(l.CPUMax > 0, "cpus", strconv.FormatFloat(l.CPUMax, 'g', -1, 64), l.CPUMaxAt)
	add(l.DiskQuota > 0, "disk, in "+r.Dir, size(&l.DiskQuota), l.DiskQuotaAt)
	add(l.InodeQuota > 0, "files, in "+r.Dir, count(&l.InodeQuota), l.InodeQuotaAt)
	add(l.PidsMax > 0, "processes and threads", count(&l.PidsMax), l.PidsMaxAt)
	if w := r.App.Workers; w != nil {
		for _, x := range w.Rlimits {
			v, text := int64(x.Value), count
			switch x.Resource {
			case "as", "data", "stack", "fsize", "memlock", "msgqueue":
				text = size
			}
			add(true, x.Resource+" of each worker", text(&v), x.At)
		}
	}
	for _, x := range r.Config.Rlimits {
		v := int64(x.Value)
		add(true, x.Resource+" of each process", count(&v), x.At)
	}
	return out
}

// swapText says how much of the host's swap there is for the vassal.
func swapText(l vassal.Limits) string {
	switch {
	case l.SwapMax == nil && l.MemoryMax == 0, l.SwapMax != nil && *l.SwapMax == vassal.NoSwapLimit:
		return "no limit"
	case l.SwapMax == nil || *l.SwapMax == 0:
		return "none"
	}
	return size(l.SwapMax)
}

// ioText is the bounds of a device, a second.
func ioText(m vassal.IOMax) string {
	var words []string
	for _, x := range []struct {
		n    int64
		what string
		text func(*int64) string
	}{{m.ReadBytes, "read", size}, {m.WriteBytes, "written", size}, {m.ReadOps, "reads", count}, {m.WriteOps, "writes", count}} {
		if x.n > 0 {
			words = append(words, x.text(&x.n)+" "+x.what)
		}
	}
	return strings.Join(words, ", ") + " a second"
}

// print lays the plan out for people.
func (e plan) print(out io.Writer) {
	fmt.Fprintf(out, "%s    %s, %s", e.Name, e.File, e.Trust)
	if len(e.Read) > 0 {
		fmt.Fprintf(out, "; also read: %s", strings.Join(e.Read, ", "))
	}
	fmt.Fprint(out, "\n\n")
	for _, s := range []struct {
		head string
		rows []explained
	}{{"runs as", e.RunsAs}, {"runs", e.Runs}, {"listens", e.Listens}, {"network", e.Network}, {"sees", e.Sees}, {"outside", e.Outside}, {"limits", e.Limits}, {"hooks", e.Hooks}, {"rules", e.Rules}, {"env", e.Environ}} {
		w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0) // columns of each heading by itself: one long path widens no other
		for i, r := range s.rows {
			head := s.head
			if i > 0 {
				head = ""
			}
			fmt.Fprintf(w, "%-9s %s\t%s\t%s\n", head, r.Value, r.Detail, r.Origin)
		}
		w.Flush()
	}
	if len(e.AlwaysSo) > 0 {
		fmt.Fprintf(out, "always so   %s\n", strings.Join(slices.Sorted(maps.Keys(set(e.AlwaysSo))), ", "))
	}
	for _, p := range e.Problems {
		if p.Code == vassal.CodeAlwaysSo {
			continue
		}
		fmt.Fprintf(out, "\n%-8s  %s\n", p.Severity, p.Error())
		printHint(out, p.Hint)
	}
}

func set(s []string) map[string]bool {
	m := map[string]bool{}
	for _, k := range s {
		m[k] = true
	}
	return m
}
