package serve

import (
	"cmp"
	"context"
	"time"
)

// thresholdEvery is how often the metrics that have thresholds are looked at, as in
// uWSGI.
const thresholdEvery = time.Second

// watchThresholds raises the alarms of metrics that have reached a value, until ctx
// ends. One that stays there raises its alarm again and again, no sooner than its
// line says, and the alarm itself tells the same text no sooner than alarm-freq.
func (c *Core) watchThresholds(ctx context.Context) {
	if c.metrics == nil || len(c.app.Metrics.Thresholds) == 0 {
		return
	}
	all := c.app.Metrics.Thresholds
	raised := make([]time.Time, len(all))
	tick := time.NewTicker(thresholdEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			for i := range all {
				t := &all[i]
				if !c.metrics.Reached(t.Metric, t.Value, t.Reset) || t.Alarm == "" || now.Sub(raised[i]) < t.Every {
					continue
				}
				raised[i] = now
				c.alarm(t.Alarm, cmp.Or(t.Text, t.Metric))
			}
		}
	}
}
