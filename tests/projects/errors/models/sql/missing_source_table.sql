select * from {{ source('hr', 'timesheets') }}
