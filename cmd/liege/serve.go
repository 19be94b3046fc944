package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"liege/emperor/asuser"
	"liege/emperor/certs"
	"liege/emperor/listen"
	"liege/emperor/resolve"
	"liege/vassal"
	"liege/vassal/action"
)

func (a *app) serveCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "serve [FILE] [--OPTION[=VALUE]…]",
		Short: "run one file, or one app, in the foreground",
		Long: `Run one vassal file in the foreground, or an app without a file:

  liege serve app.py                       on http://127.0.0.1:8080/
  liege serve --http :8000 --module site.wsgi
  liege serve site.ini:prod                the section [prod] of a file
  sudo liege serve /etc/vassals/shop.ini   as the Emperor would, if the file asks for
                                           binds, limits or a network, or is a user's

Every option of the ini language is a flag, in order with the file; uWSGI's
short flags (-s -w -p -M -H -C -i -T -b -L -z -l -R -x) mean the same.
Ctrl-C drains, a second one ends at once; HUP reloads, and so does touching a
file of touch-reload.`,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if slices.Contains(args, "--help") || slices.Contains(args, "-h") {
				return cmd.Help()
			}
			line, err := parseServe(args)
			if err != nil {
				return err
			}
			return a.serve(cmd.Context(), line)
		},
	}
}

// serve runs what the line says until it ends or is told to.
func (a *app) serve(ctx context.Context, line serveLine) error {
	l, err := a.newLoader(checkOptions{config: line.config})
	if err != nil {
		return err
	}
	if line.file != "" {
		v, err := readVassal(line.file)
		switch {
		case err != nil:
			return exitWith(exitNone, vassal.CodeUnreadable, fmt.Sprintf("%s: %s", line.file, plain(err)), "")
		case v.shared != nil:
			return &exit{code: exitConfig, problems: vassal.Problems{*v.shared}}
		}
		if trust, _ := trustOf(v.info); !trust.Operator { // for root alone
			return line.one() // as its owner, in a sandbox
		}
	}
	f := l.serve(ctx, line)
	a.warn(f.Problems)
	if f.Problems.Failed() {
		return &exit{code: exitConfig, shown: true}
	}
	if os.Geteuid() == 0 && isolates(f.result) {
		return line.one()
	}
	set := listen.NewRegistry().Set(f.result.App.Name)
	defer set.Close()
	s := &server{app: a, loader: l, line: line, set: set, signals: make(chan os.Signal, 4)}
	signal.Notify(s.signals, syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	defer signal.Stop(s.signals)
	return s.run(context.WithoutCancel(ctx), f.result)
}

// isolates reports whether the file asks for what only the Emperor's program
// can make: namespaces, binds, limits of the cgroup, mounts (KERNEL 28).
func isolates(r *resolve.Result) bool {
	c := r.Config
	j := c.Jail
	return j.NetAt.Line > 0 || len(j.Binds) > 0 || j.Root.Dir != "" || len(j.Tmpfs) > 0 || j.HidePID || j.Resolv != "" || j.TimeNS.Line > 0 || j.UserNS.Line > 0 || c.Limits.Any() || c.Jail.Hostname != "" ||
		len(r.HostHooks) > 0 || slices.ContainsFunc(r.Plan.Hooks, ofMounts)
}

// ofMounts reports whether h changes what the host would see outside of a
// sandbox.
func ofMounts(h vassal.Hook) bool {
	c, err := action.Parse(h)
	return err == nil && slices.Contains([]action.Kind{action.Mount, action.Umount, action.Hostname}, c.Kind)
}

// server is one liege serve.
type server struct {
	*app
	loader  *loader
	line    serveLine
	set     *listen.Set
	signals chan os.Signal
	gen     int
	secure  *certs.Watch // nil: no TLS
}

// run serves r and reloads on HUP or when a file was touched, until told to stop.
func (s *server) run(ctx context.Context, r *resolve.Result) error {
	current, err := s.next(ctx, r)
	if err != nil {
		return err
	}
	current.send(vassal.Alone)
	s.writePid(ctx, r, r)
	defer func() { removePid(ctx, r) }()
	look := time.NewTicker(lookAgain)
	defer look.Stop()
	for {
		select {
		case <-current.done:
			return &exit{code: exitFailed, problems: current.reason()}
		case <-look.C:
			s.renew(current, &r.App)
			if !current.touched.changed() {
				continue
			}
		case <-current.reload:
		case sig := <-s.signals:
			if sig != syscall.SIGHUP || !terminal(os.Stdin) && os.Getppid() == 1 {
				current.end(r.App.Drain+drainSlack, s.signals, nil)
				return nil
			}
		}
		f := s.loader.serve(ctx, s.line)
		s.warn(f.Problems)
		if f.Problems.Failed() {
			fmt.Fprintln(s.err, "liege: reload: the old generation still serves")
			continue
		}
		secure := s.secure
		next, err := s.next(ctx, f.result)
		if err != nil {
			s.secure = secure
			s.finish(err)
			fmt.Fprintln(s.err, "liege: reload: the old generation still serves")
			continue
		}
		s.writePid(ctx, r, f.result)
		current.end(r.App.Drain+drainSlack, nil, next)
		current, r = next, f.result
	}
}

// next starts a generation and returns when it serves.
func (s *server) next(ctx context.Context, r *resolve.Result) (*generation, error) {
	var user *asuser.Session
	change, problems := s.set.Apply(ctx, listen.Want{
		File: r.Config.File, Listeners: r.Listen, UID: r.UID, GID: r.GID, Groups: r.Plan.Groups, Trusted: true, Umask: r.Config.Jail.Umask, Context: r.Plan.Context,
		Owner: owner,
		AsUser: func(ctx context.Context) (_ *asuser.Session, err error) {
			user, err = asuser.Start(ctx, asuser.Who{UID: r.UID, GID: r.GID, Groups: r.Plan.Groups})
			return user, err
		},
	})
	if user != nil {
		user.Close()
	}
	if problems.Failed() {
		return nil, &exit{code: exitFailed, problems: problems}
	}
	s.gen++
	for i, b := range change.Bound() {
		r.App.Listen[i].Address = b.Address
	}
	g, err := s.startGeneration(ctx, r, s.gen, change.Files())
	if err != nil {
		change.Abort()
		return nil, err
	}
	select {
	case notes := <-g.ready:
		s.warn(notes)
	case <-g.done:
		change.Abort()
		return nil, &exit{code: exitFailed, problems: g.reason()}
	case sig := <-s.signals:
		g.end(drainSlack, s.signals, nil) // not at once: what it has made of files goes with it
		change.Abort()
		select {
		case s.signals <- sig: // it is for the generation that serves, too
		default: // so are those that wait
		}
		return nil, exitWith(exitFailed, vassal.CodeInterrupted, "ended by "+sig.String()+" before it was ready", "")
	}
	change.Commit()
	for _, l := range r.App.Listen {
		s.announce(l)
	}
	return g, nil
}

// drainSlack is what a core may take beyond its own drain limit, and one that is
// not ready yet to end.
const drainSlack = 5 * time.Second

// owner resolves chown-socket.
func owner(s string) (uid, gid int, err error) {
	uid, gid = -1, -1
	u, g, _ := strings.Cut(s, ":")
	db := resolve.Files{}
	if u != "" {
		found, err := db.User(u)
		if err != nil {
			return -1, -1, err
		}
		uid = found.UID
	}
	if g != "" {
		found, err := db.Group(g)
		if err != nil {
			return -1, -1, err
		}
		gid = found.GID
	}
	return uid, gid, nil
}

// announce prints a listener: one that can be clicked, or what it is for.
func (s *server) announce(l vassal.Listener) {
	switch {
	case (l.Protocol == vassal.HTTP || l.Protocol == vassal.HTTPS) && l.Address[0] != '/' && l.Address[0] != '@':
		fmt.Fprintf(s.err, "%s://%s/\n", l.Protocol, strings.Replace(l.Address, "0.0.0.0:", "127.0.0.1:", 1))
	case l.Protocol == vassal.UWSGI:
		fmt.Fprintf(s.err, "%s    uwsgi protocol, for nginx: uwsgi_pass %s%s;\n", l.Address, ifs(l.Address[0] == '/', "unix:"), l.Address)
	case l.Protocol == vassal.FastCGI, l.Protocol == vassal.SCGI:
		fmt.Fprintf(s.err, "%s    %s, for nginx: %s_pass %s%s;\n", l.Address, l.Protocol, l.Protocol, ifs(l.Address[0] == '/', "unix:"), l.Address)
	default:
		fmt.Fprintf(s.err, "%s    %s\n", l.Address, l.Protocol)
	}
}

// warn prints warnings and errors to the terminal.
func (a *app) warn(ps vassal.Problems) {
	for _, p := range ps {
		if p.Severity == vassal.Note {
			continue
		}
		fmt.Fprintf(a.err, "liege: %s: %s\n", p.Severity, p.Error())
		printHint(a.err, p.Hint)
	}
}

// one hands the file to the Emperor's program, which runs it in its sandbox.
func (l serveLine) one() error {
	args, err := l.oneArgs()
	if err != nil {
		return err
	}
	err = become("liege-emperor", args, os.Environ())
	if e, ok := errors.AsType[*exit](err); ok {
		return e
	}
	return err
}

// oneArgs is the line as the Emperor's program takes it.
func (l serveLine) oneArgs() ([]string, error) {
	if l.file == "" || len(l.settings) > 0 {
		return nil, usageError("serve: a sandbox is made from a file alone", "write the flags into the file, and sudo liege serve FILE")
	}
	file := l.file
	if l.section != "" {
		file += ":" + l.section
	}
	args := []string{"--one", file}
	if l.config != "" {
		args = append(args, "--config", l.config)
	}
	return args, nil
}
