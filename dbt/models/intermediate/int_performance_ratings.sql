with starting_workforce as (

    select * from {{ ref('int_starting_workforce') }}

),

drawn as (

    select
        employee_id,
        {{ simulation_utils.uniform_draw('employee_id', 'performance_rating') }} as rating_draw
    from starting_workforce

)

select
    employee_id,
    case
        when rating_draw < 0.10 then 'below'
        when rating_draw < 0.70 then 'meets'
        when rating_draw < 0.92 then 'exceeds'
        else 'outstanding'
    end as performance_rating
from drawn
