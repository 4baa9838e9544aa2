{# Whole years between two dates, as in an age. #}
{% macro completed_years(from_date, to_date) -%}
    cast(
        extract(year from {{ to_date }}) - extract(year from {{ from_date }})
        - case
            when extract(month from {{ to_date }}) * 100 + extract(day from {{ to_date }})
                < extract(month from {{ from_date }}) * 100 + extract(day from {{ from_date }})
            then 1
            else 0
        end
        as integer
    )
{%- endmacro %}


{# A ratio rounded to four places; null where the denominator is zero. #}
{% macro ratio(numerator, denominator) -%}
    cast(
        round(
            cast(
                cast({{ numerator }} as double precision)
                / nullif(cast({{ denominator }} as double precision), 0)
                as decimal(18, 10)
            ),
            4
        )
        as decimal(10, 4)
    )
{%- endmacro %}


{# An amount of money: two places, computed in exact decimals. #}
{% macro money(expr) -%}
    cast(round({{ expr }}, 2) as decimal(12, 2))
{%- endmacro %}
