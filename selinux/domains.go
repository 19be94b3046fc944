package selinux

import (
	"fmt"
	"strings"
)

// The types of the policy module that Liege ships (policy/liege.cil).
const (
	EmperorType = "liege_emperor_t" // the Emperor
	StageType   = "liege_stage_t"   // the first process of a sandbox, until it becomes the core
	HookType    = "liege_hook_t"    // commands of root hooks
	RelayType   = "liege_relay_t"   // what connects out for a vassal, and to nothing else
	RouterType  = "liege_router_t"  // a core that is nobody's app: it answers 503
	DefaultType = "webapp_t"        // vassals that name no context
)

// Domains are the contexts in which the parts of Liege run.
type Domains struct {
	Emperor string
	// Stage is that of the first process of every sandbox.
	Stage string
	// Hook is that of the commands of root hooks; empty: the stage's own.
	Hook string
	// Relay is that of the processes which connect out for vassals; empty: the
	// Emperor's.
	Relay string
	// Router is that of holding generations, Default that of vassals which
	// name no context; empty: they stay in the stage's.
	Router, Default string
}

// Domains finds the contexts of this Emperor. Where it runs as liege_emperor_t
// the policy module is installed, every part has a domain of its own, and one
// that the policy lacks is an error: a core that stayed in the stage's domain
// could enter every other vassal's (KERNEL 3). Anywhere else (a shell, another
// policy) all parts run as the Emperor does, as far as no vassal says
// otherwise.
func (p *Policy) Domains() (Domains, error) {
	d := Domains{Emperor: p.own, Stage: p.own}
	if field(p.own, typ) != EmperorType {
		return d, nil
	}
	for _, part := range []struct {
		context *string
		typ     string
	}{{&d.Stage, StageType}, {&d.Hook, HookType}, {&d.Relay, RelayType}, {&d.Router, RouterType}, {&d.Default, DefaultType}} {
		want := WithType(p.own, part.typ)
		if part.typ == DefaultType || part.typ == HookType || part.typ == RelayType {
			want = lowest(want)
		}
		c, err := p.Known(want)
		if err != nil {
			return Domains{}, fmt.Errorf("%s: %w", want, err)
		}
		*part.context = c
	}
	return d, nil
}

// StageHere is the context of a stage under an Emperor that systemd started,
// for a check by somebody who is not the Emperor; ok is false where the policy
// module is not installed.
func (p *Policy) StageHere() (context string, ok bool) {
	for _, level := range []string{"s0-s0:c0.c1023", "s0"} {
		if c, err := p.Known("system_u:system_r:" + StageType + ":" + level); err == nil {
			return c, true
		}
	}
	return "", false
}

// WithType is context with another type.
func WithType(context, newType string) string {
	f := strings.SplitN(context, ":", 4)
	if len(f) < 3 {
		return context
	}
	f[typ] = newType
	return strings.Join(f, ":")
}

// lowest is context at the low end of its range: "s0-s0:c0.c1023" is "s0".
func lowest(context string) string {
	f := strings.SplitN(context, ":", 4)
	if len(f) == 4 {
		f[3], _, _ = strings.Cut(f[3], "-")
	}
	return strings.Join(f, ":")
}

// Created is the context of what a process in the context by makes in parent,
// by the policy's type_transition rules: class is "dir", "fifo_file" and so on.
func (p *Policy) Created(by, parent, class string) (string, error) {
	c, err := p.ask.created(by, parent, class)
	if err != nil {
		return "", fmt.Errorf("the policy cannot be asked what %s makes in %s: %w", field(by, typ), field(parent, typ), err)
	}
	return strings.TrimRight(c, "\x00\n"), nil
}

// Allows reports whether the policy lets from do permission on an object of
// the class that has the context to.
func (p *Policy) Allows(from, to, class, permission string) (bool, error) {
	ok, _, err := p.ask.allowed(from, to, class, permission)
	return ok, err
}

// Type is the type of a context.
func Type(context string) string { return field(context, typ) }

// Level is the sensitivity and categories of a context; empty without MLS.
func Level(context string) string {
	f := strings.SplitN(context, ":", 4)
	if len(f) < 4 {
		return ""
	}
	return f[3]
}
