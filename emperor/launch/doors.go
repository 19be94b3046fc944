package launch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"liege/emperor/door"
	"liege/emperor/resolve"
	"liege/relay"
	"liege/sandbox"
	"liege/sandbox/network"
	"liege/sandbox/seccomp"
	"liege/selinux"
	"liege/vassal"
	"liege/vassal/mail"
)

// Relay is what the Host knows of liege-relay.
type Relay struct {
	Program string
	filter  []unix.SockFilter // seccomp
	lookup  []unix.SockFilter // of one with a door that has NoLinks
}

// NewRelay compiles the filters.
func NewRelay(program string) (Relay, error) {
	filter, err := relayFilter(false)
	if err != nil {
		return Relay{}, err
	}
	lookup, err := relayFilter(true)
	return Relay{program, filter, lookup}, err
}

func relayFilter(lookup bool) ([]unix.SockFilter, error) {
	code, err := seccomp.Relay(lookup)
	filter := make([]unix.SockFilter, len(code))
	for i, f := range code {
		filter[i] = unix.SockFilter{Code: f.Code, Jt: f.Jt, Jf: f.Jf, K: f.K}
	}
	return filter, err
}

// doors says which addresses answer inside, and has the relay started before
// anything of the vassal runs (CONTRACT 5).
func (s *start) doors(ctx context.Context, in *instance) error {
	r, h := s.p.Result, s.l.host
	to, err := s.leads()
	if err != nil || len(to) == 0 {
		return err
	}
	in.relayed = true
	d := &s.spec.Doors
	// Whether an app may connect to a TCP port is asked of its own domain, where
	// it connects. A unix socket asks whose it is: it is the vassal's own.
	d.TCP, d.Unix = h.Domains.Relay, r.Plan.Context
	if h.Policy != nil && d.Unix != "" {
		dir, err := selinux.PathContext(h.Records.Path())
		if err == nil {
			d.Node, err = h.Policy.Created(d.Unix, dir, "sock_file")
		}
		if err != nil {
			return err
		}
	}
	filter := h.Relay.filter
	if slices.ContainsFunc(to, func(d relay.Door) bool { return d.NoLinks }) {
		filter = h.Relay.lookup
	}
	log, user := s.l.log, who(r)
	d.Opened = func(g *sandbox.Gate) error {
		meter, err := s.meter(to)
		if err != nil {
			return err
		}
		r, err := door.Open(ctx, door.Spec{
			Program: h.Relay.Program, Who: user, Context: h.Domains.Relay, Doors: to, Filter: filter,
			Gate: g, Meter: meter, Stderr: s.spec.Stdout, Note: log.Note,
		})
		if err == nil {
			in.relay = r
		} else if meter != nil {
			meter.Close()
		}
		return err
	}
	return nil
}

// leads are the doors, and where they lead; the last may be that of sendmail.
func (s *start) leads() (to []relay.Door, err error) {
	r, d := s.p.Result, &s.spec.Doors
	caps := &r.Mail.Caps
	for _, c := range r.Connect {
		inside := sandbox.Door{Path: c.Path()}
		if inside.Path == "" {
			if inside.TCP, err = netip.ParseAddrPort(c.Address); err != nil {
				return nil, err
			}
		}
		door := relay.Door{Address: c.Address, NoLinks: relay.Linkless(c.Address, c.Tenant)}
		if slices.Contains(r.Mail.Doors, c.Address) {
			door.Mail = caps
		}
		d.All, to = append(d.All, inside), append(to, door)
	}
	if c := r.Mail.Server; c.Address != "" {
		door := relay.Door{Address: c.Address, Mail: caps, NoLinks: relay.Linkless(c.Address, c.Tenant)}
		d.All, to = append(d.All, sandbox.Door{Path: mail.Socket}), append(to, door)
	}
	return to, nil
}

// meter opens the file in which the recipients of the user's mail are counted,
// if any of the doors has to.
func (s *start) meter(to []relay.Door) (*os.File, error) {
	if !slices.ContainsFunc(to, func(d relay.Door) bool { return d.Mail != nil && d.Mail.Rate.N > 0 }) {
		return nil, nil
	}
	return s.l.host.Records.Meter(s.p.Result.UID, relay.MeterSize)
}

// ofNetwork gives an error about an address, or about net = nat, its line.
func (s *start) ofNetwork(err error) error {
	p := &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeStartFailed, Step: "network"}
	if e, ok := errors.AsType[*sandbox.NATError](err); ok {
		at := s.p.Config.Jail.NetAt
		p.File, p.Line, p.Key, p.Message = cmp.Or(at.File, s.p.Config.File), at.Line, "net", e.Error()
		if why, ok := errors.AsType[*network.Error](e); ok {
			p.Hint = why.Hint
		}
		return p
	}
	if e, ok := errors.AsType[*sandbox.DoorError](err); ok {
		c := s.p.Result.Mail.Server
		if all := s.p.Result.Connect; e.Door < len(all) {
			c = all[e.Door]
		}
		p.File, p.Line, p.Key, p.Message = c.At.File, c.At.Line, c.Key, fmt.Sprintf("%s cannot be there inside: %v", c.Address, e.Err)
		return p
	}
	return err
}

// closeRelay ends what stands beside the generation.
func (in *instance) closeRelay() {
	if in.relay == nil {
		return
	}
	if err := in.relay.Close(); err != nil {
		in.l.host.Log.Warn("left behind", "vassal", in.l.name, "gen", in.gen, "err", err)
	}
}

// relayGone says that the relay of a survivor has ended. Its listeners were its
// own and its Emperor's, so no other can take its place: only the successor's.
func (in *instance) relayGone() vassal.Problems {
	if in.gate == nil || in.asked.Load() || in.gate.Alive() {
		return nil
	}
	select {
	case <-in.done: // the relay goes with it
		return nil
	default:
	}
	p := vassal.Problem{Severity: vassal.Warning, Code: vassal.CodeNotReachable, File: in.record.File, Key: "connect", Step: "network",
		Message: "its relay has ended, and the Emperor that could start it again too: what its connect lines name is not reached until its successor is ready",
		Hint:    "mend what keeps the successor from starting"}
	in.relaySaid.Do(func() { in.log.Note("%s", p.Error()) })
	return vassal.Problems{p}
}

// reaches says where the vassal may connect to, as the first line of its log.
func reaches(r *resolve.Result) string {
	named := r.Reaches()
	switch {
	case r.Net == "host":
		return "host, may connect to: anything that the host can reach"
	case r.NAT != nil:
		return "nat, " + strings.Join(append(addressesOf(r.NAT), "may connect to:"), ", ") + " " + strings.Join(append(r.NAT.Says(), named...), ", ")
	case len(named) == 0:
		return r.Net + ", may connect to: nothing"
	}
	return fmt.Sprintf("%s, may connect to: %s", r.Net, strings.Join(named, " "))
}

func addressesOf(n *resolve.NAT) []string {
	out := []string{n.V4.String()}
	if n.V6.IsValid() {
		out = append(out, n.V6.String())
	}
	return out
}

// blocked warns about rules of others that stand in the way of net = nat.
func (s *start) blocked() vassal.Problems {
	if s.spec.NAT == nil {
		return nil
	}
	out := s.p.Result.Blocked(network.Blocked())
	for _, p := range out {
		s.l.log.Note("%s", p.Error())
	}
	return out
}
