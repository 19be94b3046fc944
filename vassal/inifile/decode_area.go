package inifile

import (
	"fmt"
	"strings"

	"liege/vassal"
	"liege/vassal/egress"
)

// listener handles addresses and what concerns all of them.
func (d *decoder) listener(v value) bool {
	switch v.opt.Name {
	case "http", "http-socket", "http11-socket":
		d.listen(v, vassal.HTTP)
	case "socket":
		d.listen(v, "") // protocol may come later
	case "stats":
		d.listen(v, vassal.Stats)
	case "protocol":
		d.protocol(v)
	case "chmod-socket":
		m := fileMode(v.n)
		d.mode = &m
	case "chown-socket":
		d.chown = v.Value
	case "listen":
		d.backlog = clampInt(v.n)
	default:
		return d.gateway(v)
	}
	return true
}

// listen adds a listener. A path is text and kept whole; of a TCP address the
// port is a number, so what follows it has no effect, as in uWSGI.
func (d *decoder) listen(v value, p vassal.Protocol) {
	addr := v.Value
	if i := strings.IndexAny(addr, " \t"); i > 0 && strings.Contains(addr[:i], ":") && !strings.Contains(addr[:i], "/") {
		d.trailing(v.Setting, addr[:i])
		addr = addr[:i]
	}
	d.cfg.Listen = append(d.cfg.Listen, vassal.Listener{Protocol: p, Address: addr, Key: v.Key, At: v.Origin})
}

// request handles the limits of the HTTP and uwsgi fronts.
func (d *decoder) request(v value) bool {
	h := &d.cfg.App.HTTP
	switch v.opt.Name {
	case "buffer-size":
		h.HeaderBytes = max(1024, d.atMostOf(v, maxHeaderBytes))
	case "max-vars":
		h.Fields = max(16, d.atMostOf(v, 1<<16))
	case "limit-post":
		h.BodyBytes = v.n
	case "http-timeout":
		d.ioTimeout = d.positive(v, defaultIOTimeout)
	case "http-headers-timeout":
		h.HeaderTimeout = d.positive(v, defaultHeaderTimeout)
	case "socket-timeout":
		d.bodyTimeout = d.positive(v, defaultBodyTimeout)
	case "websockets-ping-freq":
		if d.cfg.App.Sockets.Ping = v.dur; v.dur == 0 {
			d.cfg.App.Sockets.Ping = -1
		}
	case "websockets-pong-tolerance":
		d.cfg.App.Sockets.Pong = v.dur
	case "websockets-max-size":
		d.cfg.App.Sockets.Message = int64(d.atMostOf(v, maxSocketKB)) << 10 // 0: the default, as in uWSGI
	case "max-connections":
		h.Connections = d.within(v, 1, 1<<20, "")
	case "stats-http":
		h.StatsHTTP = v.on
	default:
		return false
	}
	return true
}

// maxHeaderBytes bounds buffer-size: every connection may need as much.
const (
	maxHeaderBytes = 1 << 20
	maxSocketKB    = 1 << 20 // of a message
)

// static handles the static file part.
func (d *decoder) static(v value) bool {
	s := &d.cfg.App.Static
	switch v.opt.Name {
	case "check-static":
		s.Check = append(s.Check, v.Value)
	case "static-map", "static-map2":
		mount, dir, _ := strings.Cut(v.Value, "=")
		s.Map = append(s.Map, vassal.StaticMap{Mount: mount, Dir: dir, Append: v.opt.Name == "static-map2"})
	case "static-index":
		s.Index = append(s.Index, v.Value)
	case "static-skip-ext":
		s.SkipExt = append(s.SkipExt, v.Value)
	case "static-safe":
		s.Safe = append(s.Safe, v.Value)
	case "mimefile":
		s.Mime = append(s.Mime, v.Value)
	default:
		return false
	}
	d.named(v)
	return true
}

// identity handles as whom the app runs.
func (d *decoder) identity(v value) bool {
	id := &d.cfg.Ident
	switch v.opt.Name {
	case "uid":
		d.user(v)
	case "gid":
		id.Group, id.GroupAt = v.Value, v.Origin
	case "add-gid":
		id.AddGroups = append(id.AddGroups, vassal.AddGroup{Name: v.Value, At: v.Origin})
	case "no-initgroups":
		id.NoInitgroups = v.on
	case "selinux-context":
		d.context(v.Setting, strings.TrimSpace(v.Value), false)
	default:
		return false
	}
	return true
}

// user refuses a number that is not the owner's at once; a name is compared
// when the host is asked (CONTRACT 1).
func (d *decoder) user(v value) {
	t := d.cfg.Trust
	if n, err := parseID(v.Value); err == nil && !t.Operator && d.tenant(v.Setting) && n != t.UID {
		d.err(vassal.CodeOwner, v.Setting, fmt.Sprintf("the file belongs to uid %d, so it runs as that user", t.UID), "sudo chown root "+d.f.Source.Path+", or remove the line")
		return
	}
	d.cfg.Ident.User, d.cfg.Ident.UserAt = v.Value, v.Origin
}

// context keeps the one SELinux context of the file.
func (d *decoder) context(s Setting, ctx string, hook bool) {
	id := &d.cfg.Ident
	if ctx == "" || strings.ContainsAny(ctx, " \t\n\x00") || strings.Count(ctx, ":") < 2 {
		d.err(vassal.CodeBadValue, s, fmt.Sprintf("%q is not an SELinux context", clip(ctx)), "user:role:type:range, such as system_u:system_r:webapp_shop_t:s0")
		return
	}
	if id.Context != "" && id.Context != ctx {
		d.err(vassal.CodeSeveralContexts, s, fmt.Sprintf("line %d asks for %s", id.ContextAt.Line, id.Context), "keep one of them")
		return
	}
	id.Context, id.ContextAt, id.ContextByHook = ctx, s.Origin, hook || id.ContextByHook
}

// jail handles what the sandbox isolates and shows.
func (d *decoder) jail(v value) bool {
	j := &d.cfg.Jail
	switch v.opt.Name {
	case "chdir":
		j.Chdir, j.ChdirAt = v.Value, v.Origin
	case "hostname":
		d.hostname(v, v.Value)
	case "umask":
		j.Umask = fileMode(v.n)
	case "auto-bind":
		j.AutoBind = v.on
	case "net":
		d.net(v)
	case "connect":
		for word := range strings.FieldsSeq(v.Value) {
			d.connect(v, word)
		}
	case "egress":
		d.egress(v)
	case "sendmail":
		d.sendmail(v)
	case "bind":
		for word := range strings.FieldsSeq(v.Value) {
			d.bind(v, word)
		}
	default:
		return false
	}
	return true
}

func (d *decoder) net(v value) {
	j := &d.cfg.Jail
	switch n := firstWord(v.Value); n {
	case "none", "private":
		j.Net, j.NetAt = "none", v.Origin
	case "host":
		j.Net, j.NetAt = "host", v.Origin
	case "nat":
		j.Net, j.NetAt = "nat", v.Origin
	default:
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not a network", clip(n)), "net = none, net = nat or net = host")
	}
}

func (d *decoder) egress(v value) {
	es, wrong, hint := egress.ParseLine(v.Value)
	if wrong != "" {
		d.err(vassal.CodeBadValue, v.Setting, wrong, hint)
		return
	}
	for _, e := range es {
		e.At, e.Tenant = v.Origin, d.tenant(v.Setting)
		if e.Allow && egress.Hopeless(e) {
			d.err(vassal.CodeRefused, v.Setting, fmt.Sprintf("%s: no vassal reaches it from its own network: it is the host's, its link's or its cloud's own", e.Target), "connect = ADDRESS:PORT reaches one service through the host")
			continue
		}
		if len(d.cfg.Jail.Egress) == vassal.MaxEgress {
			d.err(vassal.CodeTooBig, v.Setting, fmt.Sprintf("%s: a vassal has at most %d targets", e.Target, vassal.MaxEgress), "networks instead of addresses")
			return
		}
		d.cfg.Jail.Egress = append(d.cfg.Jail.Egress, e)
	}
}

func (d *decoder) hostname(v value, name string) {
	if !validHost(name) {
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not a host name", clip(name)), "letters, digits, dots and dashes, at most 63")
		return
	}
	d.cfg.Jail.Hostname = name
}

func validHost(s string) bool {
	if s == "" || len(s) > 63 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		ok := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || i > 0 && i < len(s)-1 && (c == '-' || c == '.')
		if !ok {
			return false
		}
	}
	return true
}

// The least limits that let a vassal start at all. The kernel's period for
// cpu.max is 100 ms and its least quota 1 ms.
const (
	leastMemory = 16 << 20
	leastCPU    = 0.01
)

// limits handles the cgroup's limits and those of each worker.
func (d *decoder) limits(v value) bool {
	l := &d.cfg.Limits
	switch v.opt.Name {
	case "memory-max":
		l.MemoryMax, l.MemoryMaxAt = v.n, v.Origin
		if v.n > 0 && v.n < leastMemory {
			d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%s bytes are less than the core alone needs", sizeText(v.n)), "memory-max = 512M")
		}
	case "cpu-max":
		l.CPUMax, l.CPUMaxAt = v.f, v.Origin
		if v.f > 0 && v.f < leastCPU {
			d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("the kernel knows no share below %v of a CPU", leastCPU), "cpu-max = 0.5")
		}
	case "pids-max":
		l.PidsMax, l.PidsMaxAt = v.n, v.Origin
		d.nproc = nil
	case "memory-high":
		l.MemoryHigh, l.MemoryHighAt = v.n, v.Origin
	case "swap-max":
		l.SwapMax, l.SwapMaxAt = &v.n, v.Origin
	case "cpu-weight":
		d.cpuWeight(v)
	case "io-max":
		d.ioMax(v)
	case "disk-quota":
		l.DiskQuota, l.DiskQuotaAt = v.n, v.Origin
	case "inode-quota":
		l.InodeQuota, l.InodeQuotaAt = v.n, v.Origin
	case "oom-group":
		l.OOMGroup, l.OOMGroupAt = v.on, v.Origin
	case "limit-nproc":
		d.nproc = &v
	case "limit-as":
		d.rlimit(v, "as", 1<<20)
	case "limit-data":
		d.rlimit(v, "data", 1<<20)
	case "limit-stack":
		d.rlimit(v, "stack", 1<<20)
	case "limit-cpu":
		d.rlimit(v, "cpu", 1)
	case "max-fd":
		d.rlimit(v, "nofile", 1)
	case "limit-fsize", "limit-memlock", "limit-msgqueue", "limit-sigpending":
		d.rlimit(v, strings.TrimPrefix(v.opt.Name, "limit-"), 1)
	case "limit-core", "limit-nice", "limit-rtprio", "limit-rttime":
		d.coreRlimit(v)
	default:
		return false
	}
	return true
}

// rlimit sets one limit of the workers; a later line wins, zero means none.
func (d *decoder) rlimit(v value, resource string, scale uint64) {
	var kept []vassal.Rlimit
	for _, r := range d.work.Rlimits {
		if r.Resource != resource {
			kept = append(kept, r)
		}
	}
	if v.n > 0 {
		kept = append(kept, vassal.Rlimit{Resource: resource, Value: uint64(min(v.n, 1<<40)) * scale, At: v.Origin})
	}
	d.work.Rlimits = kept
}

// Bounds of log-maxsize. The log of a user's vassal fills the host's /var/log,
// and root's process compresses it at each rotation.
const (
	maxUserLog = 100 << 20
	leastLog   = 64 << 10
)

// logs handles files that the outside world expects (CONTRACT 11).
func (d *decoder) logs(v value) bool {
	l := &d.cfg.Logs
	switch v.opt.Name {
	case "logto", "logto2", "daemonize", "daemonize2":
		l.To, l.ToAt = v.Value, v.Origin
		if v.Value == "/dev/stdout" || v.Value == "/dev/stderr" {
			l.To = ""
		}
	case "log-maxsize":
		if v.n > maxUserLog && d.tenant(v.Setting) {
			d.err(vassal.CodeOverCeiling, v.Setting, fmt.Sprintf("a user's file may ask for at most %d bytes", maxUserLog), "")
		}
		l.MaxSize = v.n
		if v.n > 0 && v.n < leastLog {
			d.warn(vassal.CodeBadValue, v.Setting, fmt.Sprintf("below %d bytes, which are used", leastLog), "")
			l.MaxSize = leastLog
		}
	case "pidfile", "pidfile2", "safe-pidfile", "safe-pidfile2":
		l.PidFile, l.PidFileAt = v.Value, v.Origin
	case "touch-reload", "touch-chain-reload", "touch-workers-reload", "fs-reload":
		if v.Value != d.f.Source.Path { // the file itself is watched anyway
			d.cfg.Touch, d.cfg.TouchAt = append(d.cfg.Touch, v.Value), append(d.cfg.TouchAt, v.Origin)
		}
	default:
		return false
	}
	return true
}

// life handles how generations follow each other.
func (d *decoder) life(v value) bool {
	r := &d.cfg.Restart
	switch v.opt.Name {
	case "ready-timeout":
		r.ReadyTimeout = d.positive(v, defaultReady)
		d.work.LoadTimeout = r.ReadyTimeout
	case "drain-timeout", "reload-mercy", "worker-reload-mercy":
		if v.dur > maxUserDrain && d.tenant(v.Setting) {
			d.err(vassal.CodeOverCeiling, v.Setting, fmt.Sprintf("a user's file may ask for at most %v", maxUserDrain), "")
		}
		d.cfg.App.Drain = d.positive(v, defaultDrain)
		r.DrainTimeout = d.cfg.App.Drain + drainGrace
	case "backoff-min":
		r.BackoffMin = d.positive(v, defaultBackoffMin)
	case "backoff-max":
		r.BackoffMax = d.positive(v, defaultBackoffMax)
	case "stable-after":
		r.StableAfter = d.positive(v, defaultStable)
	case "overlap":
		d.own.overlap = !strings.EqualFold(firstWord(v.Value), "auto")
		switch w := strings.ToLower(firstWord(v.Value)); w {
		case "auto":
			r.Overlap, r.Both = true, false
		case "yes", "true", "on", "1":
			r.Overlap, r.Both = true, true
		case "no", "false", "off", "0":
			r.Overlap, r.Both = false, false
		default:
			d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not auto, yes or no", clip(w)), "overlap = auto")
		}
	default:
		return false
	}
	return true
}
