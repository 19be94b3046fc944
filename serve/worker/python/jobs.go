package python

import (
	"strconv"
	"strings"
	"time"

	"liege/serve/worker/lang"
	"liege/vassal"
)

// Defaults of uWSGI's.
const (
	spoolFrequency = 30 * time.Second
	muleMessage    = 65536 // bytes
)

// jobs are the settings of the uwsgi module.
func (py *Python) jobs() []lang.Entry {
	j := py.app.Jobs
	if j == nil {
		j = &vassal.Jobs{}
	}
	var dirs, farms []string
	for _, s := range j.Spoolers {
		dirs = append(dirs, s.In(py.app.Dir))
	}
	for _, f := range j.Farms {
		var mules []string
		for _, n := range f.Mules {
			mules = append(mules, strconv.Itoa(n))
		}
		farms = append(farms, f.Name+":"+strings.Join(mules, ","))
	}
	frequency, message := j.Spool.Frequency, j.MuleMessage
	if frequency <= 0 {
		frequency = spoolFrequency
	}
	if message <= 0 {
		message = muleMessage
	}
	return []lang.Entry{
		{Name: "queue", Value: j.Queue.Items},
		{Name: "mules", Value: len(j.Mules)},
		{Name: "farms", Value: farms},
		{Name: "mule_msg_size", Value: message},
		{Name: "spoolers", Value: dirs},
		{Name: "spool_ordered", Value: j.Spool.Ordered},
		{Name: "spool_dir", Value: j.Spool.Dir},
		{Name: "spool_quiet", Value: j.Spool.Quiet},
		{Name: "spool_max_tasks", Value: j.Spool.MaxTasks},
		{Name: "spool_frequency", Value: int(frequency.Milliseconds())},
		{Name: "spool_import", Value: j.Spool.Import},
	}
}
