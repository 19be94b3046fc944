package route

import (
	"fmt"
	"strings"

	"liege/serve/metrics"
)

// metric is an action on a metric, NAME[,n]; n is 1 if it is not named, as in
// uWSGI.
func metric(do func(set *metrics.Set, name string, n int64) bool) func(*rl) (act, error) {
	return func(r *rl) (act, error) {
		name, text, given := strings.Cut(r.ActionArg, ",")
		if !given {
			text = "1"
		}
		t, err := r.template(text)
		set := r.h.cfg.Metrics
		if err == nil && !set.Has(name) {
			err = fmt.Errorf("there is no metric %q", name)
		}
		return func(x *run) verdict {
			do(set, name, number(t.Expand(x)))
			return next
		}, err
	}
}
