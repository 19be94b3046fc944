package static

import "time"

// dateFormat is that of HTTP dates (RFC 9110 5.6.7); only this one of its
// three forms is read, as in uWSGI.
const dateFormat = "Mon, 02 Jan 2006 15:04:05 GMT"

// parseDate returns the Unix time of s.
func parseDate(s string) (int64, bool) {
	t, err := time.Parse(dateFormat, s)
	return t.Unix(), err == nil
}

const days, months = "SunMonTueWedThuFriSat", "JanFebMarAprMayJunJulAugSepOctNovDec"

// appendDate appends the HTTP date of a Unix time, of the years 0 to 9999. It
// is time.Format for one layout, at a quarter of the cost: every file has a
// date.
func appendDate(b []byte, unix int64) []byte {
	t := time.Unix(unix, 0).UTC()
	if y := t.Year(); y < 0 || y > 9999 {
		t = time.Unix(0, 0).UTC() // a time that no file system means
	}
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	wd, m := int(t.Weekday())*3, int(month-1)*3
	b = append(b, days[wd:wd+3]...)
	b = append(b, ',', ' ', byte('0'+day/10), byte('0'+day%10), ' ')
	b = append(b, months[m:m+3]...)
	return append(b, ' ', byte('0'+year/1000), byte('0'+year/100%10), byte('0'+year/10%10), byte('0'+year%10),
		' ', byte('0'+hour/10), byte('0'+hour%10), ':', byte('0'+minute/10), byte('0'+minute%10),
		':', byte('0'+second/10), byte('0'+second%10), ' ', 'G', 'M', 'T')
}
