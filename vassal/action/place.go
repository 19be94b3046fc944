package action

import (
	"fmt"

	"liege/vassal"
)

// check reports whether c may run in phase at all.
func (c *Call) check(phase vassal.Phase) error {
	if why, ok := refused[string(c.Kind)]; ok {
		return fmt.Errorf("action %q does not exist: %s", c.Kind, why)
	}
	if _, ok := usage[c.Kind]; !ok {
		return fmt.Errorf("unknown action %q; the actions are %s", clip(string(c.Kind)), list())
	}
	place := phase.Place()
	if place == vassal.OfEmperor {
		place = vassal.AtEmperor // the same rights
	}
	if place == vassal.Nowhere {
		return fmt.Errorf("unknown phase %q", clip(string(phase)))
	}
	if why := c.barred(phase, place); why != "" {
		return fmt.Errorf("%s %s", c.name(), why)
	}
	return nil
}

// name is how c is called in messages.
func (c *Call) name() string {
	if c.Kind == Setcon {
		return "setcon"
	}
	return string(c.Kind)
}

// barred says why c cannot be done in phase; empty: it can.
func (c *Call) barred(phase vassal.Phase, place vassal.Place) string {
	user := place == vassal.AtUser || place == vassal.AtCore
	switch c.Kind {
	case Mount, Umount, Chown, Chown2:
		if user {
			return "needs root; use hook-as-root"
		}
	case Hostname:
		switch {
		case user:
			return "needs root; use hook-as-root"
		case place != vassal.AtRoot:
			return "is set when the sandbox is made, after this phase; use hook-as-root, or the option hostname"
		}
	case Putenv:
		if place == vassal.AtEmperor {
			return "would change the environment of the Emperor, which no vassal gets; use the option env"
		}
	case Setcon:
		switch {
		case place == vassal.AtCore:
			return "comes before the core starts; use hook-as-user"
		case place != vassal.AtUser:
			return "comes after the privileges are dropped; use hook-as-user"
		}
	case Exit:
		if !phase.Fatal() || place == vassal.AtEmperor {
			return "has nothing to end in this phase"
		}
	case RPC, RetryRPC:
		if place != vassal.AtCore || phase == vassal.PreApp || phase == vassal.AsUserAtexit {
			return "asks the application, which does not run in this phase; use hook-post-app or hook-accepting"
		}
	case Alarm:
		if place != vassal.AtCore {
			return "is raised by the core, which does not run in this phase; use hook-pre-app or a later one"
		}
	case Umask:
		if place == vassal.AtCore {
			return "would change the core; use the option umask"
		}
	case WaitSocket:
		if place != vassal.AtCore {
			return "connects, which nothing does that has privileges; use hook-pre-app"
		}
	}
	return ""
}
