package serve

import (
	"context"

	"liege/serve/exchange"
	"liege/vassal"
)

// mounted has SCRIPT_NAME and PATH_INFO be what the mount points say before
// anything looks at them, h being all that follows: routing rules and static
// files see the rest of the path, as in uWSGI.
//
// A point that is found in PATH_INFO replaces what the front end sent as
// SCRIPT_NAME; where none is found both stay.
func mounted(m *vassal.Mounting, h exchange.Handler) exchange.Handler {
	if m == nil || !m.Ignore && (!m.Manage || len(m.Mounts) == 0) {
		return h
	}
	return exchange.HandlerFunc(func(ctx context.Context, r *exchange.Request, w exchange.Response) error {
		if m.Ignore {
			r.Set("SCRIPT_NAME", "")
		}
		if m.Manage {
			if i := m.Find(r.Path()); i >= 0 && m.Mounts[i].Point != "" {
				r.Set("PATH_INFO", r.Behind(m.Mounts[i].Point))
				r.Set("SCRIPT_NAME", m.Mounts[i].Point)
			}
		}
		return h.Serve(ctx, r, w)
	})
}
