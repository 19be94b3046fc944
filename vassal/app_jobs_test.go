package vassal

import (
	"testing"
	"time"
)

func TestCronDue(t *testing.T) {
	at := time.Date(2026, 11, 29, 14, 30, 0, 0, time.UTC) // a Sunday
	for _, c := range []struct {
		cron Cron
		want bool
	}{
		{Cron{Minute: -1, Hour: -1, Day: -1, Month: -1, Week: -1}, true},
		{Cron{Minute: 30, Hour: 14, Day: 29, Month: 11, Week: -1}, true},
		{Cron{Minute: 31, Hour: -1, Day: -1, Month: -1, Week: -1}, false},
		{Cron{Minute: -15, Hour: -7, Day: -1, Month: -1, Week: -1}, true},
		{Cron{Minute: -7, Hour: -1, Day: -1, Month: -1, Week: -1}, false},
		{Cron{Minute: -1, Hour: -1, Day: -1, Month: -1, Week: 0}, true},
		{Cron{Minute: -1, Hour: -1, Day: -1, Month: -1, Week: 7}, true},
		{Cron{Minute: -1, Hour: -1, Day: -1, Month: -1, Week: 1}, false},
		{Cron{Minute: -1, Hour: -1, Day: 1, Month: -1, Week: 0}, true},
		{Cron{Minute: -1, Hour: -1, Day: 29, Month: -1, Week: 1}, true},
		{Cron{Minute: -1, Hour: -1, Day: 1, Month: -1, Week: 1}, false},
		{Cron{Minute: -1, Hour: -1, Day: -1, Month: 12, Week: -1}, false},
	} {
		if got := c.cron.Due(at); got != c.want {
			t.Errorf("%+v: %t", c.cron, got)
		}
	}
}
